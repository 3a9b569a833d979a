// The symbols of cuda.h, device.h, launch.h and quantize_launch.h in a build without CUDA kernels, so that callers need no #ifdef.
#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/kernel/cuda/launch.h"
#include "fpsa/kernel/cuda/quantize_launch.h"

namespace fpsa::kernel::cuda {
namespace {

constexpr std::string_view kReason =
    "the CUDA kernels are not in this build; use --device cpu, or build with the cuda preset";

[[noreturn]] void refuse() {
  throw Error(std::string(kReason));
}

}  // namespace

bool built() {
  return false;
}
std::string_view unavailable_reason() {
  return kReason;
}
std::string unavailable_reason(int) {
  return std::string(kReason);
}

const std::vector<DeviceInfo>& devices() {
  static const std::vector<DeviceInfo> none;
  return none;
}
CudaVersions versions() {
  return {};
}
DeviceState state_of(int) {
  return {};
}

DeviceScope::DeviceScope(int) {
  refuse();
}
DeviceScope::~DeviceScope() = default;
bool is_capturing(void*) {
  refuse();
}
void synchronize(void*) {
  refuse();
}
void copy_to_device(void*, const void*, int64_t) {
  refuse();
}
void copy_to_host(void*, const void*, int64_t) {
  refuse();
}
void fill(void*, int, int64_t, void*) {
  refuse();
}
DeviceMemory::DeviceMemory(int64_t) {
  refuse();
}
DeviceMemory::~DeviceMemory() = default;
Stopwatch::Stopwatch() {
  refuse();
}
Stopwatch::~Stopwatch() = default;
void Stopwatch::start(void*) {
  refuse();
}
double Stopwatch::stop(void*) {
  refuse();
}

void launch_attention_fwd_e4m3(const AttentionFwdLaunch&, void*) {
  refuse();
}
void launch_attention_fwd_bf16(const AttentionFwdLaunch&, void*) {
  refuse();
}
void launch_pack_bf16(const PackBf16Launch&, void*) {
  refuse();
}
int64_t attention_bwd_scratch_bytes(int64_t, int64_t, int64_t, int64_t, bool) {
  refuse();
}
void launch_attention_bwd_bf16(const AttentionBwdLaunch&, void*) {
  refuse();
}
void launch_expand_codes(const ExpandCodesLaunch&, void*) {
  refuse();
}
int64_t quantize_rows_scratch_bytes(int64_t, int64_t, int64_t, int64_t, int64_t) {
  refuse();
}
int64_t quantize_values_scratch_bytes(int64_t, int64_t, int64_t) {
  refuse();
}
void launch_quantize_rows(const QuantizeRowsLaunch&, void*) {
  refuse();
}
void launch_quantize_values(const QuantizeValuesLaunch&, void*) {
  refuse();
}

}  // namespace fpsa::kernel::cuda
