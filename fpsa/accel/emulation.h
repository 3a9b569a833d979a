// Methods that ask what kernels would be worth that do not exist. Slow.
#pragma once

#include <memory>

#include "fpsa/accel/methods.h"
#include "fpsa/ops/p_coding.h"

namespace fpsa::accel {

/// make_fps() with another coding of P wherever the schedule has E4M3. No gradients.
///   Errors    an invalid schedule at once; one that does not fit grid or model, and gradients, at the first call
std::unique_ptr<Method> make_emulated_fps(schedule::Schedule schedule, const ops::PCoding& coding);

}  // namespace fpsa::accel
