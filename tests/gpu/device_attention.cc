#include "tests/gpu/device_attention.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/device.h"
#include "fpsa/kernel/cuda/tiling/pack.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/f16.h"

namespace fpsa::kernel::cuda::testing_support {
namespace {

constexpr int64_t kGap = 8;         // elements between rows of the output, which nothing may write
constexpr uint8_t kUntouched = 0xa5;

template <class T>
DeviceMemory uploaded(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  DeviceMemory memory(bytes);
  copy_to_device(memory.data(), values.data(), bytes);
  return memory;
}

float element(const uint8_t* at, DeviceOutType type) {
  if (type == DeviceOutType::kF32) {
    float x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return type == DeviceOutType::kBf16 ? numeric::f32_from_bf16(bits) : numeric::f32_from_f16(bits);
}

}  // namespace

AttentionRows run_on_device(const AttentionOnCodes& attention, bool exact, DeviceOutType type) {
  const CodeProblem& problem = attention.problem();
  const SegmentLayout& layout = attention.layout();
  const int64_t jobs = problem.batch * problem.heads, rows = attention.tokens(), dim = problem.dim;
  const int64_t slots = layout.slots(), pitch = dim + kGap, size = type == DeviceOutType::kF32 ? 4 : 2;
  std::vector<uint8_t> q(static_cast<size_t>(jobs * slots * dim)), k(q.size()), v(q.size());
  std::vector<float> q_scale(static_cast<size_t>(jobs * slots)), k_scale(q_scale.size());
  std::vector<int32_t> row_of_slot(static_cast<size_t>(slots));
  rows_of_slots(layout, attention.order().to_raster(), row_of_slot.data());
  for (int64_t job = 0; job < jobs; ++job) {
    pack_codes(layout, attention.q.data() + job * rows * dim, dim, q.data() + job * slots * dim);
    pack_codes(layout, attention.k.data() + job * rows * dim, dim, k.data() + job * slots * dim);
    pack_values(layout, attention.v.data() + job * rows * dim, dim, v.data() + job * slots * dim);
    pack_scales(layout, attention.q_scale.data() + job * rows, q_scale.data() + job * slots);
    pack_scales(layout, attention.k_scale.data() + job * rows, k_scale.data() + job * slots);
  }
  const auto dq = uploaded(q), dk = uploaded(k), dv = uploaded(v);
  const auto dqs = uploaded(q_scale), dks = uploaded(k_scale), dvs = uploaded(attention.v_scale);
  const auto items = uploaded(attention.work().items), entries = uploaded(attention.work().entries);
  const auto slot_rows = uploaded(row_of_slot);
  std::vector<uint8_t> bytes(static_cast<size_t>(jobs * rows * pitch * size), kUntouched);
  std::vector<float> statistic(static_cast<size_t>(jobs * rows), std::numeric_limits<float>::quiet_NaN());
  const auto out = uploaded(bytes), lse = uploaded(statistic), row_max = uploaded(statistic);

  AttentionFwdLaunch launch;
  launch.q = dq.data();
  launch.k = dk.data();
  launch.v = dv.data();
  launch.q_scale = static_cast<const float*>(dqs.data());
  launch.k_scale = static_cast<const float*>(dks.data());
  launch.v_scale = static_cast<const float*>(dvs.data());
  launch.items = static_cast<const WorkItem*>(items.data());
  launch.entries = static_cast<const int32_t*>(entries.data());
  launch.row_of_slot = static_cast<const int32_t*>(slot_rows.data());
  launch.item_count = static_cast<int64_t>(attention.work().items.size());
  launch.paired = attention.work().paired;
  launch.batch = problem.batch;
  launch.heads = problem.heads;
  launch.query_segments = launch.key_segments = layout.segments();
  launch.queries = rows;
  launch.dim = dim;
  launch.shared_mask = attention.work().shared;
  launch.column_scales = attention.column_scales();
  launch.exact = exact;
  launch.softmax_scale = attention.head(0).softmax_scale;
  launch.out = out.data();
  launch.type = type;
  launch.batch_stride = problem.heads * rows * pitch;
  launch.head_stride = rows * pitch;
  launch.row_stride = pitch;
  launch.lse = static_cast<float*>(lse.data());
  launch.row_max = static_cast<float*>(row_max.data());
  launch_attention_fwd_e4m3(launch, nullptr);
  synchronize(nullptr);

  copy_to_host(bytes.data(), out.data(), static_cast<int64_t>(bytes.size()));
  AttentionRows result;
  result.lse.resize(statistic.size());
  result.row_max.resize(statistic.size());
  copy_to_host(result.lse.data(), lse.data(), static_cast<int64_t>(statistic.size()) * 4);
  copy_to_host(result.row_max.data(), row_max.data(), static_cast<int64_t>(statistic.size()) * 4);
  if (launch.paired > 0) {
    std::vector<uint8_t> single(bytes.size(), kUntouched);
    copy_to_device(out.data(), single.data(), static_cast<int64_t>(single.size()));
    launch.paired = 0;
    launch_attention_fwd_e4m3(launch, nullptr);
    synchronize(nullptr);
    copy_to_host(single.data(), out.data(), static_cast<int64_t>(single.size()));
    FPSA_CHECK(single == bytes, "expected the output's bits from single blocks of threads too, got others");
  }
  auto& values = exact ? result.exact : result.out;
  for (int64_t row = 0; row < jobs * rows; ++row) {
    const uint8_t* at = bytes.data() + row * pitch * size;
    for (int64_t d = 0; d < dim; ++d)
      values.push_back(element(at + d * size, type));
    for (int64_t i = dim * size; i < pitch * size; ++i)
      FPSA_CHECK(at[i] == kUntouched, "row ", row, ": memory after it was written, byte ", i);
  }
  return result;
}

}  // namespace fpsa::kernel::cuda::testing_support
