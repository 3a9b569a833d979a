// The operators as torch sees them: torch.ops.fpsa.* and the C++ dispatcher.
//
// Grids, tiles, windows and granularities are lists of three, (T, Y, X). An axis of a window of 2^31 - 1 or more
// tiles means all. lse comes back in F32, raster order. smooth_keys codes K less its mean over the tokens.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "fpsa/kernel/table.h"
#include "fpsa/ops/attention.h"
#include "fpsa/ops/composed.h"
#include "fpsa/ops/e4m3_linear.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/plan.h"
#include "fpsa/ops/quantize.h"
#include "fpsa/ops/register.h"

namespace fpsa::ops {

std::vector<int32_t> int32_values(const at::Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(x.dim() == 1 && at::isIntegralType(x.scalar_type(), false) && x.device().is_cpu(), name,
                    ": expected a 1-D integer tensor on the CPU, got ", x.scalar_type(), " ", x.sizes());
  const auto wide = x.to(at::kLong).contiguous();
  const auto narrow = wide.to(at::kInt);
  TORCH_CHECK_VALUE(at::equal(narrow.to(at::kLong), wide), name, ": a value does not fit 32 bits");
  return {narrow.const_data_ptr<int32_t>(), narrow.const_data_ptr<int32_t>() + narrow.numel()};
}

namespace {

using TensorPair = std::tuple<at::Tensor, at::Tensor>;

Precision precision_of(std::string_view quant) {
  for (const auto& [name, precision] :
       {std::pair("none", Precision::kNone), std::pair("e4m3", Precision::kE4m3), std::pair("int8", Precision::kInt8)})
    if (quant == name) return precision;
  TORCH_CHECK_VALUE(false, "quant: expected 'none', 'e4m3' or 'int8', got '", quant, "'");
}

AttentionOptions options_of(std::string_view quant, std::optional<double> scale, bool heads_first, bool smooth_keys) {
  AttentionOptions options;
  options.precision = precision_of(quant);
  options.smooth_keys = smooth_keys;
  options.scale = scale;
  options.heads_first = heads_first;
  options.want_lse = true;
  return options;
}

TensorPair attention_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::IntArrayRef grid,
                        at::IntArrayRef tile, at::IntArrayRef window, std::string_view pattern, std::string_view quant,
                        at::OptionalIntArrayRef granularity, std::optional<double> scale, bool heads_first,
                        bool smooth_keys) {
  return translated([&] {
    const auto plan =
        plan_for(triple(grid, "grid"), triple(tile, "tile"), triple(granularity.value_or(tile), "granularity"),
                 std::string(pattern), triple(window, "window"));
    const auto result = attention(q, k, v, *plan, options_of(quant, scale, heads_first, smooth_keys));
    return TensorPair(result.out, result.lse);
  });
}

TensorPair masked_attention_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::IntArrayRef grid,
                               at::IntArrayRef tile, const at::Tensor& row_begin, const at::Tensor& col,
                               std::string_view quant, at::OptionalIntArrayRef granularity, std::optional<double> scale,
                               bool heads_first, bool smooth_keys) {
  return translated([&] {
    const auto g = triple(grid, "grid"), t = triple(tile, "tile");
    const int64_t tiles = pattern::tiles_per_axis(g, t).volume();
    auto rows = int32_values(row_begin, "row_begin");
    TORCH_CHECK_VALUE(rows.size() > 1 && (static_cast<int64_t>(rows.size()) - 1) % tiles == 0,
                      "row_begin: expected heads * ", tiles, " + 1 entries, got ", rows.size());
    const int64_t heads = (static_cast<int64_t>(rows.size()) - 1) / tiles;
    const Plan plan(g, t, triple(granularity.value_or(tile), "granularity"),
                    pattern::from_csr(heads, tiles, tiles, std::move(rows), int32_values(col, "col")));
    const auto result = attention(q, k, v, plan, options_of(quant, scale, heads_first, smooth_keys));
    return TensorPair(result.out, result.lse);
  });
}

TensorPair dense_attention_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              std::optional<double> scale, bool heads_first) {
  return translated([&] {
    const auto result = dense_attention(q, k, v, options_of("none", scale, heads_first, false));
    return TensorPair(result.out, result.lse);
  });
}

TensorPair quantize_tokens_op(const at::Tensor& x, at::IntArrayRef grid, at::IntArrayRef tile,
                              at::IntArrayRef granularity, bool heads_first) {
  return translated([&] {
    const auto tile_grid = triple(tile, "tile");
    const auto plan = plan_for(triple(grid, "grid"), tile_grid, triple(granularity, "granularity"), "dense", tile_grid);
    const auto result = quantize_tokens(x, *plan, heads_first);
    return TensorPair(result.codes.view(at::kFloat8_e4m3fn), result.scales);
  });
}

TensorPair quantize_channels_op(const at::Tensor& x, at::IntArrayRef grid, at::IntArrayRef tile, bool heads_first) {
  return translated([&] {
    const auto tile_grid = triple(tile, "tile");
    const auto plan = plan_for(triple(grid, "grid"), tile_grid, tile_grid, "dense", tile_grid);
    const auto result = quantize_channels(x, *plan, heads_first);
    return TensorPair(result.codes.view(at::kFloat8_e4m3fn), result.scales);
  });
}

using TensorFive = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using TensorThree = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

TensorFive e4m3_linear_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const auto r = e4m3_product(x, weight, bias.value_or(at::Tensor()));
  return {r.y, r.x_codes, r.x_scale, r.weight_codes, r.weight_scale};
}

// What is not wanted comes back empty.
TensorThree e4m3_linear_backward_op(const at::Tensor& d_y, const at::Tensor& x_codes, const at::Tensor& x_scale,
                                    const at::Tensor& weight_codes, const at::Tensor& weight_scale,
                                    std::array<bool, 3> wanted) {
  const auto grads = e4m3_product_backward(d_y, {{}, x_codes, x_scale, weight_codes, weight_scale}, wanted);
  const auto given = [&](const at::Tensor& x, at::ScalarType type) {
    return x.defined() ? x : at::empty({0}, d_y.options().dtype(type));
  };
  return {given(grads.x, d_y.scalar_type()), given(grads.weight, d_y.scalar_type()), given(grads.bias, at::kFloat)};
}

TensorFive e4m3_linear_meta(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>&) {
  TORCH_CHECK_VALUE(x.dim() >= 1 && weight.dim() == 2, "e4m3_linear: x must be [..., in] and weight [out, in], got ",
                    x.dim(), " and ", weight.dim(), " dimensions");
  c10::SymDimVector sizes(x.sym_sizes());
  c10::SymInt rows = 1;
  for (size_t i = 0; i + 1 < sizes.size(); ++i)
    rows *= sizes[i];
  const auto &in = x.sym_size(-1), &out = weight.sym_size(0);
  sizes.back() = out;
  const auto byte = x.options().dtype(at::kByte), f32 = x.options().dtype(at::kFloat);
  return {at::empty_symint(sizes, x.options()), at::empty_symint({rows, in}, byte), at::empty_symint({rows, 1}, f32),
          at::empty_symint({out, in}, byte), at::empty_symint({out, 1}, f32)};
}

TensorThree e4m3_linear_backward_meta(const at::Tensor& d_y, const at::Tensor& x_codes, const at::Tensor&,
                                      const at::Tensor& weight_codes, const at::Tensor&, std::array<bool, 3> wanted) {
  const auto f32 = d_y.options().dtype(at::kFloat);
  return {wanted[0] ? at::empty_symint(x_codes.sym_sizes(), d_y.options()) : at::empty({0}, d_y.options()),
          wanted[1] ? at::empty_symint(weight_codes.sym_sizes(), d_y.options()) : at::empty({0}, d_y.options()),
          wanted[2] ? at::empty_symint({weight_codes.sym_size(0)}, f32) : at::empty({0}, f32)};
}

// Shapes without data, for tracing and compilation.
TensorPair attention_meta(const at::Tensor& q, bool heads_first) {
  const auto &tokens = q.sym_size(heads_first ? 2 : 1), &heads = q.sym_size(heads_first ? 1 : 2);
  return {at::empty_symint(q.sym_sizes(), q.options()),
          at::empty_symint({q.sym_size(0), heads, tokens}, q.options().dtype(at::kFloat))};
}

TensorPair quantize_meta(const at::Tensor& x, c10::SymInt scales, bool heads_first) {
  const auto &tokens = x.sym_size(heads_first ? 2 : 1), &heads = x.sym_size(heads_first ? 1 : 2);
  return {at::empty_symint({x.sym_size(0), heads, tokens, x.sym_size(3)}, x.options().dtype(at::kFloat8_e4m3fn)),
          at::empty_symint({x.sym_size(0), heads, std::move(scales)}, x.options().dtype(at::kFloat))};
}

// Groups cover the grid in steps of the granularity, whether finer or coarser than the tile.
int64_t group_count(at::IntArrayRef grid, at::IntArrayRef granularity) {
  return translated(
      [&] { return pattern::tiles_per_axis(triple(grid, "grid"), triple(granularity, "granularity")).volume(); });
}

std::vector<std::string> selected_op() {
  return translated([] {
    apply_environment();
    return kernel::selected();
  });
}

void force_isa_op(std::string_view name) {
  translated([&] {
    apply_environment();  // a later first operator must not put the environment's choice back
    kernel::force_isa(name);
    return 0;
  });
}

TORCH_LIBRARY(fpsa, m) {
  m.def(
      "attention(Tensor q, Tensor k, Tensor v, *, int[] grid, int[] tile, int[] window, str pattern='sta', "
      "str quant='none', int[]? granularity=None, float? scale=None, bool heads_first=False, bool smooth_keys=False) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "masked_attention(Tensor q, Tensor k, Tensor v, *, int[] grid, int[] tile, Tensor row_begin, Tensor col, "
      "str quant='none', int[]? granularity=None, float? scale=None, bool heads_first=False, bool smooth_keys=False) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "dense_attention(Tensor q, Tensor k, Tensor v, *, float? scale=None, bool heads_first=False) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "quantize_tokens(Tensor x, *, int[] grid, int[] tile, int[] granularity, bool heads_first=False) "
      "-> (Tensor codes, Tensor scales)");
  m.def(
      "quantize_channels(Tensor x, *, int[] grid, int[] tile, bool heads_first=False) "
      "-> (Tensor codes, Tensor scales)");
  m.def("composed_attention(Tensor q, Tensor k, Tensor v, Tensor? key_mask=None, *, float? scale=None) -> Tensor",
        composed_attention);
  m.def(
      "e4m3_linear(Tensor x, Tensor weight, Tensor? bias=None) "
      "-> (Tensor y, Tensor x_codes, Tensor x_scale, Tensor weight_codes, Tensor weight_scale)");
  m.def(
      "e4m3_linear_backward(Tensor d_y, Tensor x_codes, Tensor x_scale, Tensor weight_codes, Tensor weight_scale, "
      "bool[3] wanted) -> (Tensor d_x, Tensor d_weight, Tensor d_bias)");
  m.def("selected_kernels() -> str[]", selected_op);
  m.def("force_isa(str name) -> ()", force_isa_op);
}

// One list for every device: the functions look at their tensors, and say in words what has no kernels there.
void implement(torch::Library& m) {
  m.impl("attention", attention_op);
  m.impl("masked_attention", masked_attention_op);
  m.impl("dense_attention", dense_attention_op);
  m.impl("quantize_tokens", quantize_tokens_op);
  m.impl("quantize_channels", quantize_channels_op);
  m.impl("e4m3_linear", e4m3_linear_op);
  m.impl("e4m3_linear_backward", e4m3_linear_backward_op);
}

TORCH_LIBRARY_IMPL(fpsa, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(fpsa, CUDA, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(fpsa, Meta, m) {
  m.impl("e4m3_linear", e4m3_linear_meta);
  m.impl("e4m3_linear_backward", e4m3_linear_backward_meta);
  m.impl("attention", [](const at::Tensor& q, const at::Tensor&, const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
                         at::IntArrayRef, std::string_view, std::string_view, at::OptionalIntArrayRef,
                         std::optional<double>, bool heads_first, bool) { return attention_meta(q, heads_first); });
  m.impl("masked_attention",
         [](const at::Tensor& q, const at::Tensor&, const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
            const at::Tensor&, const at::Tensor&, std::string_view, at::OptionalIntArrayRef, std::optional<double>,
            bool heads_first, bool) { return attention_meta(q, heads_first); });
  m.impl("dense_attention", [](const at::Tensor& q, const at::Tensor&, const at::Tensor&, std::optional<double>,
                               bool heads_first) { return attention_meta(q, heads_first); });
  m.impl("quantize_tokens",
         [](const at::Tensor& x, at::IntArrayRef grid, at::IntArrayRef, at::IntArrayRef granularity, bool heads_first) {
           return quantize_meta(x, c10::SymInt(group_count(grid, granularity)), heads_first);
         });
  m.impl("quantize_channels", [](const at::Tensor& x, at::IntArrayRef, at::IntArrayRef, bool heads_first) {
    return quantize_meta(x, x.sym_size(3), heads_first);
  });
}

}  // namespace
}  // namespace fpsa::ops
