// The table's attention problems on a device, by the launcher and without torch.
#pragma once

#include "fpsa/kernel/cuda/launch.h"
#include "tests/kernel/cuda/attention_problem.h"

namespace fpsa::kernel::cuda::testing_support {

/// Runs attention_fwd_e4m3_sm90a on the current device's default stream; where there are pairs of items, which may run
/// in clusters, once more in single blocks.
///   Errors    fpsa::Error: those of the launch, memory beside a row of the output that was written, or other bits from
///             single blocks
AttentionRows run_on_device(const AttentionOnCodes& attention, bool exact, DeviceOutType type);

}  // namespace fpsa::kernel::cuda::testing_support
