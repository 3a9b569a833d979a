// The group of cases of the backward, apart because its results need a check of their own.
#pragma once

#include "fpsa/app/bench_session.h"

namespace fpsa::app::bench {

/// Our BF16 backward, dense and sparse, against torch's dense one, at the density nearest to the paper's; every
/// gradient checked on some rows against F64 before it is timed.
void bench_backward(Session& session);

}  // namespace fpsa::app::bench
