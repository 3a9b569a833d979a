// What the .cu files of the backward tell each other.
#pragma once

#include <cstdint>

#include "fpsa/kernel/cuda/attention_bwd_bf16_sm90a.h"

namespace fpsa::kernel::cuda {

/// Enqueues attention_bwd_prepare for a problem that is in order and not empty.
void start_attention_bwd_prepare(const AttentionBwdPrepareParams& params, int64_t dim, bool coded, bool f16,
                                 void* stream);

}  // namespace fpsa::kernel::cuda
