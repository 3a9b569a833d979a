// The element type of the row loops that is not C++'s own.
#pragma once

#include <cstdint>

namespace fpsa::models::wan::rows {

/// A BF16 value as stored; a distinct type so that overloads tell it from integers.
enum class Bf16 : uint16_t {};

}  // namespace fpsa::models::wan::rows
