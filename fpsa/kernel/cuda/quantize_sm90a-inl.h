// quantize_sm90a for Q and K: RMSNorm over all heads, RoPE, tile order, magnitudes per group and head, E4M3 codes.
//
// Blocks of threads take steps by tickets: the magnitudes or the codes of a quad, four slots with all their heads
// (tiling/quantize_plan.h has the order and why). The last warp brings rows and turns into shared memory, a quad ahead
// (bulk copies, two stages). The others compute: for magnitudes each first sums the squares of a row, lane j the
// columns j mod 32, in the order of the contract; then each takes 256 columns at a time of all four rows, norms,
// rotates and rounds them, and raises the largest magnitude of every group and head in global memory. For codes it does
// the same arithmetic again, which costs less than memory for its results would, and divides.
//
// A step of codes waits for the magnitudes of its unit. These were taken earlier, and whoever took them waits for
// nothing, so there is always progress, however many blocks run.
//
// The same source is compiled by nvcc (quantize_sm90a.cu) and, on emulated instructions, for tests.
#pragma once

#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/quantize_parts-inl.h"
#include "fpsa/kernel/cuda/quantize_sm90a.h"
#include "fpsa/kernel/cuda/tiling/quantize_tiling.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// A step, as the stages of shared memory hold it.
struct alignas(16) Quad {
  int32_t step, batch, first_slot, unit;  // step -1: there are no more
  int32_t group[kQuad], row[kQuad];
  float inverse_rms[kQuad];
};
static_assert(sizeof(Quad) == 4 * kQuadWords);

/// Addresses of one stage.
struct Stage {
  ptx::SharedAddress rows, turns, quad, factors, full, free;
  FPSA_DEVICE ptx::SharedAddress field(int number) const { return quad + 4 * static_cast<uint32_t>(number); }
};
FPSA_DEVICE Stage stage_at(ptx::SharedAddress memory, const QuantizeMap& map, int number) {
  const auto at = static_cast<uint32_t>(number % kQuantizeStages);
  const ptx::SharedAddress base = memory + at * map.stage_bytes, barriers = memory + map.barriers + at * 16;
  return {base, base + map.turns, base + map.quads, base + map.factors, barriers, barriers + ptx::kBarrierBytes};
}
FPSA_DEVICE uint32_t phase_of(int number) {
  return static_cast<uint32_t>(number / kQuantizeStages) & 1;
}

/// One thread.
template <int kDim, bool kTurn>
FPSA_DEVICE void bring(const QuantizeRowsParams& p, ptx::SharedAddress memory, const QuantizeMap& map) {
  const int32_t steps = p.slots / kQuad * 2, total = steps * p.batch;
  // A row at once where its heads lie side by side.
  const int pieces = p.x.head_stride == kDim ? 1 : p.heads;
  const uint32_t piece_bytes = pieces == 1 ? map.row_bytes : 2 * kDim;
  for (int number = 0;; ++number) {
    // Found out before the stage is free.
    const auto ticket = static_cast<int32_t>(ptx::fetch_add(p.ticket, 1));
    Quad quad = {};
    quad.step = ticket < total ? p.plan.steps[ticket % steps] : -1;
    uint32_t bytes = 0;
    if (quad.step >= 0) {
      quad.batch = ticket / steps;
      quad.first_slot = step_quad(quad.step) * kQuad;
      quad.unit = p.plan.unit_of_quad[step_quad(quad.step)];
      FPSA_UNROLL
      for (int i = 0; i < kQuad; ++i) {
        quad.group[i] = p.plan.group_of_slot[quad.first_slot + i];
        quad.row[i] = p.plan.row_of_slot[quad.first_slot + i];
        if (quad.row[i] >= 0) bytes += map.row_bytes + map.turn_bytes;
      }
    }
    const Stage stage = stage_at(memory, map, number);
    ptx::mbarrier_wait(stage.free, phase_of(number) ^ 1);
    ptx::store_shared(stage.field(0), quad.step);
    if (quad.step >= 0) {
      ptx::store_shared(stage.field(1), quad.batch);
      ptx::store_shared(stage.field(2), quad.first_slot);
      ptx::store_shared(stage.field(3), quad.unit);
      FPSA_UNROLL
      for (int i = 0; i < kQuad; ++i) {
        ptx::store_shared(stage.field(4 + i), quad.group[i]);
        ptx::store_shared(stage.field(8 + i), quad.row[i]);
      }
    }
    ptx::mbarrier_arrive_expect_tx(stage.full, bytes);
    if (quad.step < 0) return;
    FPSA_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (quad.row[i] < 0) continue;
      const uint16_t* row = p.x.data + quad.batch * p.x.batch_stride + quad.row[i] * p.x.row_stride;
      const ptx::SharedAddress to = stage.rows + static_cast<uint32_t>(i) * map.row_bytes;
      for (int piece = 0; piece < pieces; ++piece)
        ptx::copy_bytes(to + static_cast<uint32_t>(piece) * piece_bytes, row + piece * p.x.head_stride, piece_bytes,
                        stage.full);
      if constexpr (kTurn)
        ptx::copy_bytes(stage.turns + static_cast<uint32_t>(i) * map.turn_bytes,
                        p.turns + int64_t{quad.row[i]} * kDim, kDim * 4, stage.full);
    }
  }
}

/// A thread of the warps that compute. In a step of 256 columns it has columns 4 lane to 4 lane + 3 of each half, which
/// are the same channels of different heads, so both halves have the same turns.
template <int kDim, bool kNorm, bool kTurn>
struct Quantizer {
  static constexpr int kHalves = 2, kHeadLanes = kDim / 4;
  static_assert(kDim == 64 || kDim == 128, "a head is a half of a warp's 128 columns, or all of them");

  const QuantizeRowsParams& p;
  const ptx::SharedAddress memory;
  const QuantizeMap& map;
  const int thread, threads;  // of those that compute

  FPSA_DEVICE int lane() const { return thread % 32; }
  FPSA_DEVICE int width() const { return p.heads * kDim; }
  FPSA_DEVICE void meet() const { ptx::barrier_sync(1, threads); }

  /// 1 / rms of row `i`, by a warp: every product and sum of the contract.
  FPSA_DEVICE float inverse_rms(const Stage& stage, int i) const {
    ptx::SharedAddress at = stage.rows + static_cast<uint32_t>(i) * map.row_bytes + 2 * static_cast<uint32_t>(lane());
    float sum = 0.0f;
    const auto add_next = [&] {
      const float x = ptx::float_of(uint32_t{ptx::load_shared<uint16_t>(at)} << 16);
      sum = ptx::fused_multiply_add(x, x, sum);  // the square of a BF16 is an F32
      at += 64;
    };
    int left = width() / 32;
    for (; left >= 16; left -= 16) {
      FPSA_UNROLL
      for (int i = 0; i < 16; ++i)
        add_next();
    }
    for (; left > 0; --left)
      add_next();
    // Lanes 2j and 2j+1, then j and j+8 of those pairs, j and j+4, and (w0 + w1) + (w2 + w3).
    constexpr int kMasks[] = {1, 16, 8, 2, 4};
    FPSA_UNROLL
    for (int i = 0; i < 5; ++i)
      sum = ptx::add(sum, ptx::shuffle_xor(sum, kMasks[i]));
    const float mean = ptx::divide(sum, static_cast<float>(width()));
    return ptx::divide(1.0f, ptx::square_root(ptx::add(mean, p.eps)));
  }

  /// Four columns of a row, normed, rotated and rounded.
  FPSA_DEVICE ptx::Words2 prepared(ptx::Words2 x, float inverse_rms, const ptx::Floats4& weight,
                                   const ptx::Floats4& turn) const {
    FPSA_UNROLL
    for (int pair = 0; pair < (kNorm || kTurn ? 2 : 0); ++pair) {
      float even = low_bf16(x.at[pair]), odd = high_bf16(x.at[pair]);
      if constexpr (kNorm) {
        even = ptx::multiply(ptx::multiply(even, inverse_rms), weight.at[2 * pair]);
        odd = ptx::multiply(ptx::multiply(odd, inverse_rms), weight.at[2 * pair + 1]);
      }
      if constexpr (kTurn) {
        const float cos = turn.at[2 * pair], sin = turn.at[2 * pair + 1];
        const float turned = ptx::subtract(ptx::multiply(even, cos), ptx::multiply(odd, sin));
        odd = ptx::add(ptx::multiply(odd, cos), ptx::multiply(even, sin));
        even = turned;
      }
      x.at[pair] = ptx::bf16x2(even, odd);
    }
    return x;
  }

  FPSA_DEVICE bool has(uint32_t column) const { return column < static_cast<uint32_t>(width()); }

  /// For every step: begin(column), then for each row use(row, half, words) if it has a token, for the halves that
  /// exist, and done(row, column, exists), for all lanes; column is that of half 0.
  template <class Begin, class Use, class Done>
  FPSA_DEVICE void for_columns(const Stage& stage, const Begin& begin, const Use& use, const Done& done) const {
    const auto rows = ptx::load_shared<ptx::Words4>(stage.field(8));
    ptx::Floats4 inverse_rms = {};
    if constexpr (kNorm) inverse_rms = ptx::load_shared<ptx::Floats4>(stage.field(12));
    for (int base = thread / 32 * kStepColumns; base < width(); base += threads / 32 * kStepColumns) {
      const auto column = static_cast<uint32_t>(base + 4 * lane());
      begin(column);
      ptx::Floats4 weight[kHalves] = {}, turn = {};
      if constexpr (kNorm) {
        FPSA_UNROLL
        for (uint32_t half = 0; half < kHalves; ++half)
          if (has(column + 128 * half))
            weight[half] = ptx::load_shared<ptx::Floats4>(memory + map.weights + 4 * (column + 128 * half));
      }
      FPSA_UNROLL
      for (int row = 0; row < kQuad; ++row) {
        const bool exists = static_cast<int32_t>(rows.at[row]) >= 0;
        if (exists) {
          const auto at = static_cast<uint32_t>(row);
          if constexpr (kTurn)
            turn = ptx::load_shared<ptx::Floats4>(stage.turns + at * (4 * kDim) + 4 * (column % kDim));
          FPSA_UNROLL
          for (uint32_t half = 0; half < kHalves; ++half) {
            if (!has(column + 128 * half)) continue;
            const auto x =
                ptx::load_shared<ptx::Words2>(stage.rows + at * map.row_bytes + 2 * (column + 128 * half));
            use(row, static_cast<int>(half), prepared(x, inverse_rms.at[row], weight[half], turn));
          }
        }
        done(row, column, exists);
      }
    }
  }

  FPSA_DEVICE void magnitudes(const Stage& stage) const {
    const int batch = ptx::load_shared<int32_t>(stage.field(1));
    if constexpr (kNorm) {
      for (int row = thread / 32; row < kQuad; row += threads / 32) {
        const bool exists = ptx::load_shared<int32_t>(stage.field(8 + row)) >= 0;
        const float found = exists ? inverse_rms(stage, row) : 0.0f;
        if (lane() == 0) {
          ptx::store_shared(stage.field(12 + row), found);
          p.inverse_rms[int64_t{batch} * p.slots + ptx::load_shared<int32_t>(stage.field(2)) + row] = found;
        }
      }
      meet();
    }
    const auto groups = ptx::load_shared<ptx::Words4>(stage.field(4));
    uint32_t largest[kHalves] = {};
    for_columns(
        stage, [](uint32_t) {},
        [&](int, int half, const ptx::Words2& x) {
          largest[half] =
              ptx::max_u16x2(largest[half], ptx::max_u16x2(magnitudes_of(x.at[0]), magnitudes_of(x.at[1])));
        },
        [&](int row, uint32_t column, bool) {
          if (row + 1 < kQuad && groups.at[row + 1 < kQuad ? row + 1 : row] == groups.at[row]) return;
          // Both halves at once: the low 16 bits for one, the high ones for the other.
          uint32_t both = ptx::max_u16x2(largest[0] & 0xffffu, largest[0] >> 16) |
                          ptx::max_u16x2(largest[1] & 0xffffu, largest[1] >> 16) << 16;
          for (int mask = 1; mask < kHeadLanes; mask *= 2)
            both = ptx::max_u16x2(both, ptx::shuffle_xor(both, mask));
          if (lane() % kHeadLanes == 0) {
            uint32_t* of_head =
                p.magnitudes + (int64_t{batch} * p.groups + groups.at[row]) * p.heads + column / kDim;
            if (has(column)) ptx::raise_global(of_head, both << 16);
            if (has(column + 128)) ptx::raise_global(of_head + 128 / kDim, both & 0xffff0000u);
          }
          largest[0] = largest[1] = 0;
        });
    ptx::sync_warp();
    if (lane() == 0)
      ptx::add_release(p.complete + int64_t{batch} * p.units + ptx::load_shared<int32_t>(stage.field(3)), 1);
  }

  FPSA_DEVICE static uint32_t codes_of(const ptx::Words2& x, const Factor& by) {
    float q[4] = {low_bf16(x.at[0]), high_bf16(x.at[0]), low_bf16(x.at[1]), high_bf16(x.at[1])};
    divide_all(q, by);
    return ptx::e4m3x2(q[0], q[1]) | ptx::e4m3x2(q[2], q[3]) << 16;
  }

  FPSA_DEVICE void codes(const Stage& stage) const {
    const int batch = ptx::load_shared<int32_t>(stage.field(1));
    const auto slot = ptx::load_shared<uint32_t>(stage.field(2));
    const int unit = ptx::load_shared<int32_t>(stage.field(3));
    // Row by row of a head, so that four threads write scales side by side.
    if (thread < kQuad * p.heads) {
      ptx::wait_at_least(p.complete + int64_t{batch} * p.units + unit,
                         static_cast<uint32_t>(p.plan.quads_of_unit[unit] * (threads / 32)));
      for (int i = thread; i < kQuad * p.heads; i += threads) {
        const int row = i % kQuad, head = i / kQuad, group = ptx::load_shared<int32_t>(stage.field(4 + row));
        const Factor factor = factor_of(
            ptx::load_shared_by_blocks(p.magnitudes + (int64_t{batch} * p.groups + group) * p.heads + head));
        ptx::store_shared(stage.factors + 8 * static_cast<uint32_t>(i), factor);
        p.scale[(int64_t{batch} * p.heads + head) * p.slots + slot + row] = factor.scale;
        if (kNorm && head == 0)
          ptx::store_shared(stage.field(12 + row), ptx::load_shared_by_blocks(reinterpret_cast<const uint32_t*>(
                                                       p.inverse_rms + int64_t{batch} * p.slots + slot + row)));
      }
    }
    meet();
    uint8_t* const sample = p.codes + int64_t{batch} * p.heads * p.slots * kDim;
    uint32_t to[kHalves] = {}, factors[kHalves] = {};
    for_columns(
        stage,
        [&](uint32_t column) {
          FPSA_UNROLL
          for (uint32_t half = 0; half < kHalves; ++half) {
            const uint32_t head = (column + 128 * half) / kDim;
            to[half] = ptx::opaque((head * static_cast<uint32_t>(p.slots) + slot) * kDim + column % kDim);
            factors[half] = ptx::opaque(stage.factors + 8 * kQuad * head);
          }
        },
        [&](int row, int half, const ptx::Words2& x) {
          const auto by = ptx::load_shared<Factor>(factors[half] + 8 * static_cast<uint32_t>(row));
          ptx::store_once(sample + to[half] + row * kDim, codes_of(x, by));
        },
        [&](int row, uint32_t column, bool exists) {
          if (exists) return;
          FPSA_UNROLL
          for (uint32_t half = 0; half < kHalves; ++half)
            if (has(column + 128 * half)) ptx::store_once(sample + to[half] + row * kDim, 0);
        });
  }

  FPSA_DEVICE void run() const {
    for (int number = 0;; ++number) {
      const Stage stage = stage_at(memory, map, number);
      ptx::mbarrier_wait(stage.full, phase_of(number));
      const int step = ptx::load_shared<int32_t>(stage.quad);
      if (step < 0) return;
      if (step_has_codes(step))
        codes(stage);
      else
        magnitudes(stage);
      ptx::sync_warp();
      if (lane() == 0) ptx::mbarrier_arrive(stage.free);
    }
  }
};

/// The kernel's body, for every thread of the grid.
template <int kDim, bool kNorm, bool kTurn>
FPSA_DEVICE void quantize_rows_sm90a(const QuantizeRowsParams& p) {
  const QuantizeMap map = quantize_map(p.heads, kDim, kNorm, kTurn);
  const ptx::SharedAddress memory = ptx::shared_memory();
  const int thread = ptx::thread_index(), threads = ptx::block_threads() - 32;  // of those that compute
  if (thread == 0) {
    for (int number = 0; number < kQuantizeStages; ++number) {
      ptx::mbarrier_init(stage_at(memory, map, number).full, 1);
      ptx::mbarrier_init(stage_at(memory, map, number).free, static_cast<uint32_t>(threads / 32));
    }
    ptx::fence_barrier_init();
  }
  if constexpr (kNorm)
    for (int i = thread; i < p.heads * kDim; i += threads + 32)
      ptx::store_shared(memory + map.weights + 4 * static_cast<uint32_t>(i), p.weight[i]);
  ptx::sync_block();
  if (thread < threads)
    Quantizer<kDim, kNorm, kTurn>{p, memory, map, thread, threads}.run();
  else if (thread == threads)
    bring<kDim, kTurn>(p, memory, map);
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
