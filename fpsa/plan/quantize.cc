#include "fpsa/plan/quantize.h"

namespace fpsa::plan {
namespace {

kernel::QuantizeInput head_of(const Geometry& geometry, const QuantizeSource& source, int64_t job) {
  return {head_rows(source.x, source.dtype, job, source.heads, geometry.order().to_raster().data()), source.dtype,
          geometry.tokens(), source.dim};
}

}  // namespace

void quantize_tokens(const kernel::Quantize& kernel, const Geometry& geometry, const QuantizeSource& source,
                     uint8_t* codes, float* scales, float* token_scale, ParallelRunner& runner) {
  const int64_t tokens = geometry.tokens();
  const auto& groups = geometry.groups();
  for_each(runner, source.batch * source.heads, [&](int64_t i) {
    kernel.tokens(head_of(geometry, source, i), groups.of_token.data(), groups.count, codes + i * tokens * source.dim,
                  scales + i * groups.count, token_scale ? token_scale + i * tokens : nullptr);
  });
}

void quantize_channels(const kernel::Quantize& kernel, const Geometry& geometry, const QuantizeSource& source,
                       uint8_t* codes, float* scales, ParallelRunner& runner) {
  for_each(runner, source.batch * source.heads, [&](int64_t i) {
    kernel.channels(head_of(geometry, source, i), codes + i * geometry.tokens() * source.dim, scales + i * source.dim);
  });
}

}  // namespace fpsa::plan
