#include "fpsa/ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fpsa/base/check.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/plan.h"
#include "fpsa/ops/quantize.h"
#include "tests/tolerance.h"

namespace fpsa::ops {
namespace {

using pattern::Grid;

struct Inputs {
  at::Tensor q, k, v;
};

Inputs random_inputs(int64_t b, int64_t l, int64_t h, int64_t d, at::ScalarType type, uint64_t seed = 3) {
  at::manual_seed(seed);
  auto make = [&] { return at::randn({b, l, h, d}).to(type); };
  return {make(), make(), make()};
}

// [heads, L, L] bool in raster order from the plan's mask.
at::Tensor token_mask(const Plan& plan, int64_t heads) {
  const auto& order = plan.order();
  auto mask = at::zeros({heads, plan.tokens(), plan.tokens()}, at::kBool);
  auto to_raster = at::tensor(at::ArrayRef<int32_t>(order.to_raster())).to(at::kLong);
  auto tiled = mask.clone();
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t row = 0; row < plan.mask().rows; ++row)
      for (const int32_t col : plan.mask().visible(h, row))
        tiled[h]
            .slice(0, order.tile_begin(row), order.tile_begin(row + 1))
            .slice(1, order.tile_begin(col), order.tile_begin(col + 1))
            .fill_(true);
  for (int64_t h = 0; h < heads; ++h)
    mask[h].index_put_({to_raster.unsqueeze(1), to_raster.unsqueeze(0)}, tiled[h]);
  return mask;
}

struct Expected {
  at::Tensor out, lse;
};

// Masked attention in F64.
Expected masked(const Inputs& x, const at::Tensor& mask) {
  auto heads = [](const at::Tensor& t) { return t.to(at::kDouble).transpose(1, 2); };
  auto s = at::matmul(heads(x.q), heads(x.k).transpose(2, 3)) / std::sqrt(static_cast<double>(x.q.size(3)));
  if (mask.defined()) s = s.masked_fill(mask.logical_not(), -INFINITY);
  return {at::matmul(at::softmax(s, -1), heads(x.v)).transpose(1, 2), at::logsumexp(s, -1)};
}

double worst(const at::Tensor& got, const at::Tensor& want) {
  return (got - want).abs().max().item<double>();
}

std::shared_ptr<const Plan> sta(const Grid& grid, const Grid& tile, const Grid& window) {
  return plan_for(grid, tile, tile, "sta", window);
}

TEST(Attention, SparseRasterInputMatchesMaskedAttentionInF64) {
  for (const auto& [grid, tile, window] : {std::tuple{Grid{3, 8, 8}, Grid{3, 4, 4}, Grid{1, 1, 2}},
                                           {Grid{5, 6, 7}, Grid{2, 4, 4}, Grid{2, 1, 1}},
                                           {Grid{1, 1, 1}, Grid{6, 8, 8}, Grid{1, 1, 1}}}) {
    const auto plan = sta(grid, tile, window);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto x = random_inputs(2, grid.volume(), 3, 24, type);
      AttentionOptions options;
      options.want_lse = options.want_row_max = true;
      const auto got = attention(x.q, x.k, x.v, *plan, options);
      const auto want = masked(x, token_mask(*plan, 1));
      const double allowed = type == at::kFloat ? tolerance::kOpsF32 : tolerance::kOpsBf16;
      EXPECT_EQ(got.out.scalar_type(), type);
      EXPECT_LT(worst(got.out, want.out), allowed * x.v.abs().max().item<double>());
      EXPECT_LT(worst(got.lse, want.lse), 1e-4);
      EXPECT_TRUE(at::equal(got.row_max, got.row_max.ceil()));
    }
  }
}

TEST(Attention, PerHeadMaskGivesEachHeadItsOwn) {
  const Grid grid{4, 4, 8}, tile{2, 2, 4};
  const auto mask = pattern::per_head({pattern::sliding_tile(grid, tile, {1, 1, 1}), pattern::dense(grid, tile)});
  const Plan plan(grid, tile, tile, mask);
  const auto x = random_inputs(1, grid.volume(), 2, 16, at::kFloat);
  EXPECT_LT(worst(attention(x.q, x.k, x.v, plan).out, masked(x, token_mask(plan, 2)).out), tolerance::kOpsF32 * 5);
}

TEST(Attention, DensePlanGivesTheBitsOfDenseAttention) {
  const Grid grid{3, 7, 10};
  const auto x = random_inputs(2, grid.volume(), 2, 40, at::kBFloat16);
  const auto dense = dense_attention(x.q, x.k, x.v).out;
  EXPECT_TRUE(at::equal(attention(x.q, x.k, x.v, *sta(grid, {3, 4, 4}, pattern::kFullWindow)).out, dense));
}

TEST(Attention, CrossAttentionMatchesF64) {
  auto x = random_inputs(2, 150, 3, 64, at::kFloat);
  x.k = x.k.slice(1, 0, 77).clone();
  x.v = x.v.slice(1, 0, 77).clone();
  EXPECT_LT(worst(dense_attention(x.q, x.k, x.v).out, masked(x, {}).out), tolerance::kOpsF32 * 5);
}

TEST(Attention, LayoutsAndStridesGiveTheSameBits) {
  const Grid grid{2, 8, 8};
  const auto plan = sta(grid, {2, 4, 4}, {1, 1, 2});
  const auto x = random_inputs(2, grid.volume(), 3, 32, at::kBFloat16);
  const auto want = attention(x.q, x.k, x.v, *plan).out;
  AttentionOptions heads_first;
  heads_first.heads_first = true;
  auto contiguous = [](const at::Tensor& t) { return t.transpose(1, 2).contiguous(); };
  const auto got = attention(contiguous(x.q), contiguous(x.k), contiguous(x.v), *plan, heads_first).out;
  EXPECT_TRUE(at::equal(got.transpose(1, 2), want));
  const auto fused = at::cat({x.q, x.k, x.v}, 3);
  EXPECT_TRUE(
      at::equal(attention(fused.slice(3, 0, 32), fused.slice(3, 32, 64), fused.slice(3, 64, 96), *plan).out, want));
  auto wide = at::zeros({2, grid.volume(), 5, 32}, at::kBFloat16);
  AttentionOptions into;
  into.out = wide.narrow(2, 1, 3);
  attention(x.q, x.k, x.v, *plan, into);
  EXPECT_TRUE(at::equal(wide.narrow(2, 1, 3), want));
  EXPECT_EQ(wide.select(2, 0).abs().max().item<double>() + wide.select(2, 4).abs().max().item<double>(), 0.0);
}

TEST(Attention, BytesDoNotDependOnTheNumberOfThreads) {
  const Grid grid{5, 8, 9};
  const auto plan = plan_for(grid, {2, 4, 4}, {1, 2, 2}, "sta", {3, 1, 2});
  const auto x = random_inputs(1, grid.volume(), 3, 64, at::kBFloat16);
  AttentionOptions e4m3;
  e4m3.precision = Precision::kE4m3;
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = attention(x.q, x.k, x.v, *plan).out, one_e4m3 = attention(x.q, x.k, x.v, *plan, e4m3).out;
  at::set_num_threads(4);
  EXPECT_TRUE(at::equal(attention(x.q, x.k, x.v, *plan).out, one));
  EXPECT_TRUE(at::equal(attention(x.q, x.k, x.v, *plan, e4m3).out, one_e4m3));
  at::set_num_threads(threads);
}

// Dequantises what quantize_* made and rounds nothing else: the error left is that of P's codes.
TEST(Attention, E4m3MatchesMaskedAttentionOnTheDequantisedInputs) {
  const Grid grid{3, 8, 10};
  for (const Grid& granularity : {Grid{3, 4, 4}, Grid{1, 2, 4}, Grid{6, 8, 8}}) {
    const auto plan = plan_for(grid, {3, 4, 4}, granularity, "sta", {1, 1, 2});
    const auto x = random_inputs(2, grid.volume(), 2, 64, at::kBFloat16);
    auto to_raster = at::tensor(at::ArrayRef<int32_t>(plan->order().to_raster())).to(at::kLong);
    auto dequantise = [&](const Quantized& codes, const at::Tensor& scale) {
      const auto real = codes.codes.view(at::kFloat8_e4m3fn).to(at::kDouble) * scale;
      return at::zeros_like(real).index_copy_(2, to_raster, real).transpose(1, 2);
    };
    auto tokens = [&](const at::Tensor& t) {
      const auto codes = quantize_tokens(t, *plan);
      return dequantise(codes, codes.token_scale.unsqueeze(3));
    };
    const auto v = quantize_channels(x.v, *plan);
    const Inputs rounded{tokens(x.q), tokens(x.k), dequantise(v, v.scales.unsqueeze(2))};
    // An E4M3 value of 3 mantissa bits is off by at most 2^-4.
    EXPECT_LT(((rounded.q - x.q).abs() / x.q.abs().clamp_min(0.05)).max().item<double>(), 0x1.01p-4);
    AttentionOptions options;
    options.precision = Precision::kE4m3;
    options.want_lse = true;
    const auto got = attention(x.q, x.k, x.v, *plan, options);
    const auto want = masked(rounded, token_mask(*plan, 1));
    const double range = want.out.abs().max().item<double>();
    EXPECT_LT(worst(got.out, want.out), tolerance::kOpsE4m3 * range);
    EXPECT_LT(worst(got.lse, want.lse), 1e-4);
    EXPECT_EQ(got.kernel, kernel::attention_fwd(kernel::Dtype::kE4m3).name);
  }
}

TEST(Attention, Int8IsCloseToMaskedAttentionAndSmoothingMakesOffsetKeysClose) {
  const Grid grid{3, 8, 10};
  const auto plan = plan_for(grid, {3, 4, 4}, {3, 4, 4}, "sta", {1, 1, 2});
  auto x = random_inputs(2, grid.volume(), 2, 64, at::kFloat);
  AttentionOptions options;
  options.precision = Precision::kInt8;
  options.want_lse = true;
  const auto mask = token_mask(*plan, 1);
  const auto plain = attention(x.q, x.k, x.v, *plan, options);
  const auto want = masked(x, mask);
  const double range = want.out.abs().max().item<double>();
  EXPECT_LT(worst(plain.out, want.out), tolerance::kOpsInt8 * range);
  EXPECT_LT(worst(plain.lse, want.lse), tolerance::kOpsInt8);
  EXPECT_EQ(plain.kernel, kernel::attention_fwd(kernel::Dtype::kInt8).name);

  x.k = x.k + 20 * at::randn({1, 1, 2, 64});
  const auto rough = attention(x.q, x.k, x.v, *plan, options);
  const auto exact = masked(x, mask);
  EXPECT_GT(worst(rough.out, exact.out), tolerance::kOpsInt8 * range);
  options.smooth_keys = true;
  const auto smooth = attention(x.q, x.k, x.v, *plan, options);
  EXPECT_LT(worst(smooth.out, exact.out), tolerance::kOpsInt8 * range);
  EXPECT_LT(worst(smooth.lse, exact.lse), tolerance::kOpsInt8);
}

TEST(Attention, ForcedIsaIsTheOneThatRan) {
  const auto x = random_inputs(1, 70, 2, 16, at::kBFloat16);
  for (const auto isa : kernel::all_isas()) {
    if (isa > kernel::detected_isa()) continue;
    kernel::force_isa(kernel::isa_name(isa));
    const auto result = dense_attention(x.q, x.k, x.v);
    EXPECT_EQ(result.isa, isa);
    EXPECT_LT(worst(result.out, masked(x, {}).out), tolerance::kOpsBf16 * 5);
  }
  kernel::force_isa("auto");
}

TEST(Attention, EmptyTensorsAreLegal) {
  const auto q = at::zeros({1, 5, 2, 8}), none = at::zeros({1, 0, 2, 8});
  EXPECT_EQ(dense_attention(q, none, none).out.abs().max().item<double>(), 0.0);
  EXPECT_EQ(dense_attention(none, q, q).out.numel(), 0);
  EXPECT_EQ(dense_attention(at::zeros({0, 5, 2, 8}), at::zeros({0, 5, 2, 8}), at::zeros({0, 5, 2, 8})).out.numel(), 0);
}

template <class Function>
std::string message_of(const Function& fn) {
  try {
    fn();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(Attention, ErrorsNameTheArgument) {
  const Grid grid{2, 4, 4};
  const auto plan = sta(grid, {2, 4, 4}, {1, 1, 1});
  const auto x = random_inputs(1, 32, 2, 16, at::kFloat);
  auto says = [&](const std::string& text, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const auto message = message_of([&] { attention(q, k, v, *plan); });
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  says("q must be [B,L,H,D]", x.q[0], x.k, x.v);
  says("k must have q's dtype", x.q, x.k.to(at::kBFloat16), x.v);
  says("v must be float32 or bfloat16", x.q, x.k, x.v.to(at::kHalf));
  says("k must have the batch, heads and head dim of q", x.q, x.k.slice(2, 0, 1), x.v);
  says("32 tokens of grid 2x4x4", x.q.slice(1, 0, 8), x.k, x.v);
  says("multiple of 8", x.q.slice(3, 0, 12), x.k.slice(3, 0, 12), x.v.slice(3, 0, 12));
  says("differentiable_attention", x.q.clone().set_requires_grad(true), x.k, x.v);
  EXPECT_THROW(Plan(grid, {2, 4, 4}, {2, 4, 4}, pattern::dense(grid, {1, 4, 4})), Error);
}

TEST(Attention, OutMayShareMemoryWithNothing) {
  const auto plan = sta({2, 4, 4}, {2, 4, 4}, {1, 1, 1});
  const auto x = random_inputs(1, 32, 2, 16, at::kFloat);
  auto says = [&](const std::string& text, const at::Tensor& q, const at::Tensor& out) {
    AttentionOptions options;
    options.out = out;
    const auto planned = message_of([&] { attention(q, x.k, x.v, *plan, options); });
    EXPECT_NE(planned.find("attention: " + text), std::string::npos) << planned;
    const auto dense = message_of([&] { dense_attention(q, x.k, x.v, options); });
    EXPECT_NE(dense.find("dense_attention: " + text), std::string::npos) << dense;
  };
  says("out must not share memory with q", x.q, x.q);
  says("out must not share memory with k", x.q, x.k);
  says("out must not share memory with v", x.q, x.v);
  const auto rows = at::randn({1, 33, 2, 16});
  says("out must not share memory with q", rows.narrow(1, 0, 32), rows.narrow(1, 1, 32));  // one row later
  const auto wide = at::randn({1, 32, 3, 16});
  says("out must not share memory with q", wide.narrow(2, 0, 2), wide.narrow(2, 0, 2));  // a view with gaps
  says("elements of out share memory", x.q, at::zeros({1, 1, 2, 16}).expand({1, 32, 2, 16}));
}

TEST(Plan, RefusesAMaskThatIsNotWellFormed) {
  const Grid grid{2, 4, 4}, tile{1, 2, 4};
  const auto good = pattern::dense(grid, tile);
  EXPECT_NO_THROW(Plan(grid, tile, tile, good));
  auto outside = good;
  outside.col.back() = 4;
  EXPECT_THROW(Plan(grid, tile, tile, outside), Error);
  auto descending = good;
  std::swap(descending.col[0], descending.col[1]);
  EXPECT_THROW(Plan(grid, tile, tile, descending), Error);
  auto cut = good;
  cut.row_begin.pop_back();
  EXPECT_THROW(Plan(grid, tile, tile, cut), Error);
}

TEST(Plan, IsCachedBySetting) {
  const Grid grid{2, 4, 4}, tile{1, 2, 2};
  const auto plan = sta(grid, tile, {1, 1, 1});
  EXPECT_EQ(plan, sta(grid, tile, {1, 1, 1}));
  EXPECT_NE(plan, sta(grid, tile, {1, 1, 2}));
  EXPECT_NE(plan, plan_for(grid, tile, {1, 1, 1}, "sta", {1, 1, 1}));
  for (int64_t i = 1; i < 50; ++i)
    sta({1, 1, i + 1}, {1, 1, 1}, {1, 1, 1});
  EXPECT_NE(plan, sta(grid, tile, {1, 1, 1}));  // pushed out, made again
}

}  // namespace
}  // namespace fpsa::ops
