// quantize_sm90a for Q and K: RMSNorm over all heads, RoPE, tile order, magnitudes per group and head, E4M3 codes.
//
// Blocks of threads take tasks by tickets: the magnitudes or the codes of a quad, four slots with all their heads
// (tiling/quantize_plan.h has the order and why). Three kinds of warps work on a ring of two stages in shared memory:
//   * one brings the rows and turns of a quad (bulk copies) and, when a stage is free again, says to the grid that its
//     magnitudes are complete;
//   * one makes ready what a quad needs as a whole (quantize_ready-inl.h): for magnitudes the norm of each row, sums of
//     squares in the order of the contract; for codes it waits for the magnitudes of the unit and makes scales and what
//     divides by them;
//   * the others compute. Each takes 256 columns at a time of all four rows, norms and rotates them, and raises the
//     largest magnitude of every group and head in global memory; or does the same arithmetic again, which costs less
//     than memory for its results would, rounds, and divides. Nearly all quads have four tokens and rows of whole
//     spans; for them there is an instance of each loop without the branches of ragged ones.
// So waits for memory and for other blocks, and sums that cannot be shared out, happen beside the quad before.
//
// Codes wait for the magnitudes of their unit. These were taken earlier, and whoever took them waits for nothing but
// earlier tasks of its own block, so there is always progress, however many blocks run.
//
// The same source is compiled by nvcc (quantize_sm90a.cu) and, on emulated instructions, for tests.
#pragma once

#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/quantize_ready-inl.h"

namespace fpsa::kernel::cuda::inline FPSA_TARGET {

/// One thread.
template <int kDim, bool kTurn>
FPSA_DEVICE void bring(const QuantizeRowsParams& p, ptx::SharedAddress memory, const QuantizeMap& map) {
  const int32_t tasks = p.slots / kQuad * 2, total = tasks * p.batch;
  // A row at once where its heads lie side by side.
  const int pieces = p.x.head_stride == kDim ? 1 : p.heads;
  const uint32_t piece_bytes = pieces == 1 ? map.row_bytes : 2 * kDim;
  bool ended = false;
  // For the last task and the one before, which had this stage: the counter of the unit whose magnitudes it gives.
  uint32_t *owed = nullptr, *owed_before = nullptr;
  static_assert(kQuantizeStages == 2);
  for (int number = 0;; ++number) {
    // Found out before the stage is free.
    Quad quad = {};
    quad.task = -1;
    uint32_t bytes = 0;
    if (!ended) {
      const auto ticket = static_cast<int32_t>(ptx::fetch_add(p.ticket, 1));
      if (ticket < total) {
        quad.task = p.plan.tasks[ticket % tasks];
        quad.batch = ticket / tasks;
        quad.unit = p.plan.unit_of_quad[task_quad(quad.task)];
        quad.shape = kFourTokens | kOneGroup;
        const int32_t first_slot = task_quad(quad.task) * kQuad;
        FPSA_UNROLL
        for (int i = 0; i < kQuad; ++i) {
          quad.group[i] = p.plan.group_of_slot[first_slot + i];
          quad.row[i] = p.plan.row_of_slot[first_slot + i];
          if (quad.group[i] != quad.group[0]) quad.shape &= ~kOneGroup;
          if (quad.row[i] >= 0)
            bytes += map.row_bytes + map.turn_bytes;
          else
            quad.shape &= ~kFourTokens;
        }
      }
    }
    const Stage stage = stage_at(memory, map, number);
    ptx::mbarrier_wait(stage.free, phase_of(number) ^ 1);
    // Every warp of the block has done with the stage's last task and said so to its barrier, from which this thread
    // knows: so it can vouch for all of them.
    if (owed_before) ptx::add_release(owed_before, 1);
    if (ended) return;  // one stage after the last, so that all have been vouched for
    ended = quad.task < 0;
    owed_before = owed;
    owed = ended || task_has_codes(quad.task) ? nullptr : p.complete + int64_t{quad.batch} * p.units + quad.unit;
    const auto words = [](int32_t a, int32_t b, int32_t c, int32_t d) {
      return ptx::Words4{
          {static_cast<uint32_t>(a), static_cast<uint32_t>(b), static_cast<uint32_t>(c), static_cast<uint32_t>(d)}};
    };
    ptx::store_shared(stage.field(0), words(quad.task, quad.batch, quad.shape, quad.unit));
    ptx::store_shared(stage.field(4), words(quad.group[0], quad.group[1], quad.group[2], quad.group[3]));
    ptx::store_shared(stage.field(8), words(quad.row[0], quad.row[1], quad.row[2], quad.row[3]));
    ptx::mbarrier_arrive_expect_tx(stage.landed, bytes);
    if (ended) continue;
    FPSA_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (quad.row[i] < 0) continue;
      const uint16_t* row = p.x.data + quad.batch * p.x.batch_stride + quad.row[i] * p.x.row_stride;
      const ptx::SharedAddress to = stage.rows + static_cast<uint32_t>(i) * map.row_pitch;
      for (int piece = 0; piece < pieces; ++piece)
        ptx::copy_bytes(to + static_cast<uint32_t>(piece) * piece_bytes, row + piece * p.x.head_stride, piece_bytes,
                        stage.landed);
      if constexpr (kTurn)
        ptx::copy_bytes(stage.turns + static_cast<uint32_t>(i) * map.turn_bytes, p.turns + int64_t{quad.row[i]} * kDim,
                        kDim * 4, stage.landed);
    }
  }
}

/// A thread of the warps that compute. In a span of 256 columns it has columns 4 lane to 4 lane + 3 of each half, which
/// are the same channels of different heads, so both halves have the same turns.
template <int kDim, bool kNorm, bool kTurn>
struct Quantizer {
  static constexpr int kHalves = 2, kHalf = kSpanColumns / kHalves;
  static_assert(kDim == 64 || kDim == 128, "a head is a half of a warp's 128 columns, or all of them");

  const QuantizeRowsParams& p;
  const ptx::SharedAddress memory;
  const QuantizeMap& map;
  const int thread, threads;  // of those that compute

  FPSA_DEVICE int lane() const { return thread % 32; }
  FPSA_DEVICE int first_column() const { return 4 * lane(); }
  FPSA_DEVICE int width() const { return p.heads * kDim; }

  /// Four columns of a row, normed and rotated, not rounded yet.
  FPSA_DEVICE ptx::Floats4 prepared(const ptx::Words2& words, float inverse_rms, const ptx::Floats4& weight,
                                    const ptx::Floats4& turn) const {
    ptx::Floats4 x = {low_bf16(words.at[0]), high_bf16(words.at[0]), low_bf16(words.at[1]), high_bf16(words.at[1])};
    if constexpr (kNorm) {
      FPSA_UNROLL
      for (int i = 0; i < 4; ++i)
        x.at[i] = ptx::multiply(ptx::multiply(x.at[i], inverse_rms), weight.at[i]);
    }
    if constexpr (kTurn) {
      FPSA_UNROLL
      for (int i = 0; i < 4; i += 2) {
        const float even = x.at[i], odd = x.at[i + 1], cos = turn.at[i], sin = turn.at[i + 1];
        x.at[i] = ptx::subtract(ptx::multiply(even, cos), ptx::multiply(odd, sin));
        x.at[i + 1] = ptx::add(ptx::multiply(odd, cos), ptx::multiply(even, sin));
      }
    }
    return x;
  }

  FPSA_DEVICE bool has(int column) const { return column < width(); }

  /// For every span: begin(column), then for each row use(row, half, x) if it has a token, for the halves that
  /// exist, and done(row, base, exists), for all lanes; the span begins at column `base`, half 0 of this lane at
  /// `column`. kFull: all rows have tokens and all spans are whole.
  template <bool kFull, class Begin, class Use, class Done>
  FPSA_DEVICE void for_columns(const Stage& stage, const Begin& begin, const Use& use, const Done& done) const {
    const auto rows = ptx::load_shared<ptx::Words4>(stage.field(8));
    const auto exists = [&](int row) { return kFull || static_cast<int32_t>(rows.at[row]) >= 0; };
    ptx::Floats4 inverse_rms = {}, turn[kQuad] = {};
    if constexpr (kNorm) inverse_rms = ptx::load_shared<ptx::Floats4>(stage.field(12));
    // The same in all spans, which begin with a head; but ragged quads have no registers to keep them.
    const ptx::SharedAddress turns = stage.turns + 4 * static_cast<uint32_t>(first_column() % kDim);
    const auto load_turn = [&](int row) {
      if constexpr (kTurn) turn[row] = ptx::load_shared<ptx::Floats4>(turns + static_cast<uint32_t>(row) * (4 * kDim));
    };
    if constexpr (kFull) {
      FPSA_UNROLL
      for (int row = 0; row < kQuad; ++row)
        load_turn(row);
    }
    for (int base = thread / 32 * kSpanColumns; base < width(); base += threads / 32 * kSpanColumns) {
      const int column = base + first_column();
      begin(column);
      ptx::Floats4 weight[kHalves] = {};
      if constexpr (kNorm) {
        FPSA_UNROLL
        for (int half = 0; half < kHalves; ++half)
          if (kFull || has(column + kHalf * half))
            weight[half] =
                ptx::load_shared<ptx::Floats4>(memory + map.weights + 4 * static_cast<uint32_t>(column + kHalf * half));
      }
      FPSA_UNROLL
      for (int row = 0; row < kQuad; ++row) {
        if (exists(row)) {
          if constexpr (!kFull) load_turn(row);
          const ptx::SharedAddress at =
              stage.rows + static_cast<uint32_t>(row) * map.row_pitch + 2 * static_cast<uint32_t>(column);
          FPSA_UNROLL
          for (int half = 0; half < kHalves; ++half) {
            if (!kFull && !has(column + kHalf * half)) continue;
            const auto x = ptx::load_shared<ptx::Words2>(at + 2 * static_cast<uint32_t>(kHalf * half));
            use(row, half, prepared(x, inverse_rms.at[row], weight[half], turn[row]));
          }
        }
        done(row, base, exists(row));
      }
    }
  }

  /// kFull: a full quad of one group.
  template <bool kFull>
  FPSA_DEVICE void magnitudes(const Stage& stage, int batch) const {
    const auto groups = ptx::load_shared<ptx::Words4>(stage.field(4));
    const auto of_group = [&](int row) {
      return p.magnitudes + (int64_t{batch} * p.groups + groups.at[row]) * p.heads + lane();
    };
    uint32_t* const of_quad = of_group(0);
    float largest[kHalves] = {};
    for_columns<kFull>(
        stage, [](int) {},
        [&](int, int half, const ptx::Floats4& x) {
          FPSA_UNROLL
          for (int i = 0; i < 4; ++i)
            largest[half] = ptx::max_nan(largest[half], ptx::magnitude(x.at[i]));
        },
        [&](int row, int base, bool) {
          const int next = row + 1 < kQuad ? row + 1 : row;
          if (row < next && (kFull || groups.at[next] == groups.at[row])) return;
          // Lane i has the i-th head of the span. Bits of numbers that are not negative are ordered as they are, NaN
          // above infinity; rounding keeps the order.
          uint32_t mine = 0;
          FPSA_UNROLL
          for (int half = 0; half < kHalves; ++half) {
            FPSA_UNROLL
            for (int head = 0; head < kHalf / kDim; ++head) {
              const bool inside = first_column() / kDim == head;
              const uint32_t found = ptx::max_in_warp(inside ? ptx::bits_of(largest[half]) : 0u);
              if (lane() == half * (kHalf / kDim) + head) mine = found;
            }
            largest[half] = 0.0f;
          }
          const int head = base / kDim;
          if (lane() < kSpanColumns / kDim && (kFull || head + lane() < p.heads))
            ptx::raise_global((kFull ? of_quad : of_group(row)) + head, ptx::bf16x2(0.0f, ptx::float_of(mine)));
        });
  }

  /// kFull: a full quad whose divisors are plain.
  template <bool kFull>
  FPSA_DEVICE void codes(const Stage& stage, int batch, int slot) const {
    // Of head h, slot s and channel c: (h slots + s) kDim + c, where h kDim is a column less its channel.
    const int channel = first_column() % kDim;
    uint8_t* const lane_to = p.codes + int64_t{batch} * p.heads * p.slots * kDim +
                             (int64_t{slot} * kDim + channel - int64_t{channel} * p.slots);
    uint8_t* to[kHalves] = {};
    ptx::Floats4 divisors[kHalves][2] = {};
    for_columns<kFull>(
        stage,
        [&](int column) {
          FPSA_UNROLL
          for (int half = 0; half < kHalves; ++half) {
            if (!kFull && !has(column + kHalf * half)) continue;
            to[half] = lane_to + int64_t{column + kHalf * half} * p.slots;
            const ptx::SharedAddress from =
                stage.factors + kFactorBytes * static_cast<uint32_t>((column + kHalf * half) / kDim);
            divisors[half][0] = ptx::load_shared<ptx::Floats4>(from);
            divisors[half][1] = ptx::load_shared<ptx::Floats4>(from + 16);
          }
        },
        [&](int row, int half, const ptx::Floats4& x) {
          const float* by = &divisors[half][row / 2].at[row % 2 * 2];
          float rounded[4];
          FPSA_UNROLL
          for (int i = 0; i < 4; ++i)
            rounded[i] = kNorm || kTurn ? ptx::float_of(ptx::bf16x2(0.0f, x.at[i])) : x.at[i];
          ptx::store_once(to[half] + row * kDim, codes_of<kFull>(rounded, {by[0], by[1]}));
        },
        [&](int row, int base, bool exists) {
          if (exists) return;
          FPSA_UNROLL
          for (int half = 0; half < kHalves; ++half)
            if (has(base + first_column() + kHalf * half)) ptx::store_once(to[half] + row * kDim, 0);
        });
  }

  FPSA_DEVICE void run() const {
    const bool whole_spans = width() % kSpanColumns == 0;
    for (int number = 0;; ++number) {
      const Stage stage = stage_at(memory, map, number);
      ptx::mbarrier_wait(stage.landed, phase_of(number));
      const auto task = ptx::load_shared<int32_t>(stage.field(0));
      if (task < 0) return;
      ptx::mbarrier_wait(stage.ready, phase_of(number));
      const int batch = ptx::load_shared<int32_t>(stage.field(1)), shape = ptx::load_shared<int32_t>(stage.field(2));
      const bool full = whole_spans && (shape & kFourTokens) != 0;
      if (task_has_codes(task)) {
        const int slot = task_quad(task) * kQuad;
        if (full)
          codes<true>(stage, batch, slot);
        else
          codes<false>(stage, batch, slot);
      } else {
        if (full && (shape & kOneGroup) != 0)
          magnitudes<true>(stage, batch);
        else
          magnitudes<false>(stage, batch);
      }
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
  const int thread = ptx::thread_index(), threads = ptx::block_threads() - 64;  // of those that compute
  if (thread == 0) {
    for (int number = 0; number < kQuantizeStages; ++number) {
      const Stage stage = stage_at(memory, map, number);
      ptx::mbarrier_init(stage.landed, 1);
      ptx::mbarrier_init(stage.ready, 1);
      ptx::mbarrier_init(stage.free, static_cast<uint32_t>(threads / 32));
    }
    ptx::fence_barrier_init();
  }
  if constexpr (kNorm)
    for (int i = thread; i < p.heads * kDim; i += threads + 64)
      ptx::store_shared(memory + map.weights + 4 * static_cast<uint32_t>(i), p.weight[i]);
  ptx::sync_block();
  if (thread < threads)
    Quantizer<kDim, kNorm, kTurn>{p, memory, map, thread, threads}.run();
  else if (thread < threads + 32)
    Preparer<kDim, kNorm>{p, memory, map, thread - threads}.run();
  else if (thread == threads + 32)
    bring<kDim, kTurn>(p, memory, map);
}

}  // namespace fpsa::kernel::cuda::inline FPSA_TARGET
