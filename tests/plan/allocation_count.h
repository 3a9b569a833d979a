// Counts calls of malloc and its relatives in this process, operator new's included.
#pragma once

#include <cstdint>

namespace fpsa::testing_support {

/// Allocations by any thread since the process began.
int64_t allocation_count();

}  // namespace fpsa::testing_support
