// How a schedule's precision is asked of the operators: stated once, so that what a calibration measures is what runs.
#pragma once

#include "fpsa/base/check.h"
#include "fpsa/ops/attention.h"
#include "fpsa/schedule/schedule.h"

namespace fpsa::accel {

/// Options of attention in this precision. INT8 has the same step for all magnitudes, so what the keys have in common
/// would cost it the most: it codes them less their mean.
inline ops::AttentionOptions attention_options(schedule::Quant quant) {
  ops::AttentionOptions options;
  switch (quant) {
    case schedule::Quant::kNone:
      options.precision = ops::Precision::kNone;
      return options;
    case schedule::Quant::kE4m3:
      options.precision = ops::Precision::kE4m3;
      return options;
    case schedule::Quant::kInt8:
      options.precision = ops::Precision::kInt8;
      options.smooth_keys = true;
      return options;
  }
  FPSA_CHECK(false, "quant: unknown value ", static_cast<int>(quant));
}

}  // namespace fpsa::accel
