// The loops are inline assembly: compilers keep accumulators of such loops in memory as soon as there are many.
#include "fpsa/app/bench_peak.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace fpsa::app::bench {
namespace {

#if defined(__x86_64__)

// 24 accumulators cover 4 cycles of latency at up to 4 instructions per cycle; AVX2 has 16 registers, so 12 there.
// Operands are ones or so: neither zeros, which processors may run cooler, nor denormals.
#define FPSA_ZMM_LOOP(function, features, instruction)                                                                \
  [[gnu::noinline, gnu::target(features)]] void function(int64_t iterations) {                                        \
    const int32_t ones = 0x3f803f80;                                                                                  \
    asm volatile(                                                                                                     \
        "vpbroadcastd %[ones], %%zmm24\n"                                                                             \
        "vmovdqa64 %%zmm24, %%zmm25\n"                                                                                \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"                                      \
        "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n"                                                                       \
        ".endr\n"                                                                                                     \
        "1:\n"                                                                                                        \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n" instruction                          \
        " %%zmm24, %%zmm25, %%zmm\\r\n"                                                                               \
        ".endr\n"                                                                                                     \
        "decq %[n]\n"                                                                                                 \
        "jnz 1b\n"                                                                                                    \
        "vzeroupper\n"                                                                                                \
        : [n] "+r"(iterations)                                                                                        \
        : [ones] "m"(ones)                                                                                            \
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",     \
          "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", \
          "xmm24", "xmm25");                                                                                          \
  }
FPSA_ZMM_LOOP(vdpbf16ps_zmm, "avx512f,avx512bf16", "vdpbf16ps")
FPSA_ZMM_LOOP(vpdpbusd_zmm, "avx512f,avx512vnni", "vpdpbusd")
FPSA_ZMM_LOOP(vfmadd231ps_zmm, "avx512f", "vfmadd231ps")
#undef FPSA_ZMM_LOOP

[[gnu::noinline, gnu::target("avx2,fma")]] void vfmadd231ps_ymm(int64_t iterations) {
  const int32_t ones = 0x3f800000;
  asm volatile(
      "vpbroadcastd %[ones], %%ymm12\n"
      "vmovdqa %%ymm12, %%ymm13\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm\\r\n"
      ".endr\n"
      "decq %[n]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [n] "+r"(iterations)
      : [ones] "m"(ones)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13");
}

// Tile registers hold 16 rows of 64 bytes. There are eight: 6 accumulators, which cover the 52 cycles of latency at one
// instruction per 16 cycles, and two operands, here of zeros. No compiler keeps values in tile registers by itself.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

#define FPSA_TILE_LOOP(function, features, instruction)                        \
  [[gnu::noinline, gnu::target(features)]] void function(int64_t iterations) { \
    const TileConfig config;                                                   \
    asm volatile(                                                              \
        "ldtilecfg %[config]\n"                                                \
        ".irp r,0,1,2,3,4,5,6,7\n"                                             \
        "tilezero %%tmm\\r\n"                                                  \
        ".endr\n"                                                              \
        "1:\n"                                                                 \
        ".irp r,0,1,2,3,4,5\n" instruction                                     \
        " %%tmm7, %%tmm6, %%tmm\\r\n"                                          \
        ".endr\n"                                                              \
        "decq %[n]\n"                                                          \
        "jnz 1b\n"                                                             \
        "tilerelease\n"                                                        \
        : [n] "+r"(iterations)                                                 \
        : [config] "m"(config)                                                 \
        : "cc");                                                               \
  }
FPSA_TILE_LOOP(tdpbf16ps_tmm, "amx-tile,amx-bf16", "tdpbf16ps")
FPSA_TILE_LOOP(tdpbusd_tmm, "amx-tile,amx-int8", "tdpbusd")
#undef FPSA_TILE_LOOP

bool has_avx2() {
  return kernel::detected_isa() >= kernel::Isa::kAvx2;
}
bool has_avx512() {
  return kernel::detected_isa() >= kernel::Isa::kAvx512;
}
bool has_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
bool has_vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

// The level stands for the processor's tile instructions, both kinds, and for Linux's permission to use them.
bool has_amx() {
  return kernel::detected_isa() >= kernel::Isa::kAmx;
}

constexpr std::array<PeakLoop, 6> kLoops = {{
    {"vfmadd231ps ymm", 12 * 8 * 2, vfmadd231ps_ymm, has_avx2},
    {"vfmadd231ps zmm", 24 * 16 * 2, vfmadd231ps_zmm, has_avx512},
    {"vdpbf16ps zmm", 24 * 32 * 2, vdpbf16ps_zmm, has_bf16},
    {"vpdpbusd zmm", 24 * 64 * 2, vpdpbusd_zmm, has_vnni},
    {"tdpbf16ps tmm", 6 * 16 * 16 * 32 * 2, tdpbf16ps_tmm, has_amx},
    {"tdpbusd tmm", 6 * 16 * 16 * 64 * 2, tdpbusd_tmm, has_amx},
}};

#else
constexpr std::array<PeakLoop, 0> kLoops = {};
#endif

const PeakLoop* loop_named(std::string_view name) {
  const auto found = std::ranges::find(kLoops, name, &PeakLoop::name);
  return found == kLoops.end() ? nullptr : &*found;
}

template <class Function>
void on_threads(int threads, const Function& work) {
  std::vector<std::jthread> team;
  for (int i = 1; i < threads; ++i)
    team.emplace_back([&work, i] { work(i); });
  work(0);
}

// Touched once, so that the pages exist.
struct Buffer {
  explicit Buffer(int64_t bytes) : words(static_cast<size_t>(bytes / 8)) {
    data = std::make_unique<uint64_t[]>(words);
    std::memset(data.get(), 1, words * 8);
  }
  size_t words;
  std::unique_ptr<uint64_t[]> data;
};

uint64_t sum_of(const Buffer& buffer) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= buffer.words; i += 8)
    for (size_t lane = 0; lane < 8; ++lane)
      sums[lane] += buffer.data[i + lane];
  uint64_t total = 0;
  for (const uint64_t sum : sums)
    total += sum;
  return total;
}

}  // namespace

std::span<const PeakLoop> peak_loops() {
  return kLoops;
}

const PeakLoop* peak_loop_of(kernel::Isa isa, kernel::Dtype dtype) {
  const bool int8 = dtype == kernel::Dtype::kInt8;
  switch (isa) {
    case kernel::Isa::kReference:
      return nullptr;
    case kernel::Isa::kAvx2:
      return int8 ? nullptr : loop_named("vfmadd231ps ymm");
    case kernel::Isa::kAvx512:
      return int8 ? nullptr : loop_named("vfmadd231ps zmm");
    case kernel::Isa::kAvx512Bf16:
      return loop_named(int8 ? "vpdpbusd zmm" : "vdpbf16ps zmm");
    case kernel::Isa::kAmx:
      return loop_named(int8 ? "tdpbusd tmm" : "tdpbf16ps tmm");
  }
  return nullptr;
}

WorkUnit work_unit_of(const kernel::AttentionFwdEntry& entry) {
  switch (entry.isa) {
    case kernel::Isa::kReference:
      return {1, 1};
    case kernel::Isa::kAvx2:  // a group of packed keys; register tiles come in every number of rows
      return {1, 8};
    case kernel::Isa::kAvx512:
    case kernel::Isa::kAvx512Bf16:
      return {1, 16};
    case kernel::Isa::kAmx:  // whole tiles: 16 rows of 64 bytes of P
      return {16, entry.dtype == kernel::Dtype::kInt8 ? 64 : 32};
  }
  return {};
}

PeakRate measure_peak(const PeakLoop& loop, int threads, const SamplePolicy& policy) {
  constexpr int64_t kIterations = int64_t{1} << 20;  // some 10 ms: the start of the threads is lost in them
  const auto call = [&] { on_threads(threads, [&](int) { loop.run(kIterations); }); };
  const auto timing = take_turns({{[&](int repeats) { return time_calls(repeats, call); }}}, policy).front();
  const double operations = static_cast<double>(loop.operations * kIterations) * threads;
  return {operations / timing.seconds, timing};
}

Bandwidth measure_bandwidth(int threads, int64_t bytes_per_thread, const SamplePolicy& policy) {
  std::vector<Buffer> from, to;
  for (int i = 0; i < threads; ++i) {
    from.emplace_back(bytes_per_thread);
    to.emplace_back(bytes_per_thread);
  }
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  const auto read = [&] {
    on_threads(threads, [&](int i) { sums[static_cast<size_t>(i)] += sum_of(from[static_cast<size_t>(i)]); });
  };
  const auto copy = [&] {
    on_threads(threads, [&](int i) {
      const auto& source = from[static_cast<size_t>(i)];
      std::memcpy(to[static_cast<size_t>(i)].data.get(), source.data.get(), source.words * 8);
    });
  };
  const auto timings = take_turns({{[&](int repeats) { return time_calls(repeats, read); }},
                                   {[&](int repeats) { return time_calls(repeats, copy); }}},
                                  policy);
  const double bytes = static_cast<double>(bytes_per_thread) * threads;
  return {bytes / timings[0].seconds, 2 * bytes / timings[1].seconds, timings[0], timings[1]};
}

}  // namespace fpsa::app::bench
