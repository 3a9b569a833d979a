// device.h by the CUDA runtime, and NVML where the driver brings it.
#include "fpsa/kernel/cuda/device.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>

#include "fpsa/base/check.h"

namespace fpsa::kernel::cuda {
namespace {

void check(cudaError_t error, const char* what) {
  FPSA_CHECK(error == cudaSuccess, what, ": CUDA says ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "device");
  return value;
}

std::vector<DeviceInfo> find_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // no driver or no device: an answer, not an error of the next launch
    return {};
  }
  std::vector<DeviceInfo> found;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i), "device");
    found.push_back({i, properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                     static_cast<int64_t>(properties.totalGlobalMem), properties.l2CacheSize,
                     attribute(cudaDevAttrClockRate, i) / 1000});
  }
  return found;
}

// The few functions of NVML that are asked for; declared here, since its header is not part of every toolkit.
class Management {
 public:
  Management() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    using Init = int (*)();
    const auto init = find<Init>("nvmlInit_v2");
    ready_ = init && init() == 0;
  }
  // The library stays loaded: it belongs to the process.

  DeviceState state(const char* bus_id) const {
    DeviceState state;
    void* device = nullptr;
    using ByBus = int (*)(const char*, void**);
    const auto by_bus = ready_ ? find<ByBus>("nvmlDeviceGetHandleByPciBusId_v2") : nullptr;
    if (!by_bus || by_bus(bus_id, &device) != 0) return state;
    using Version = int (*)(char*, unsigned);
    char text[96] = {};
    if (const auto version = find<Version>("nvmlSystemGetDriverVersion"); version && version(text, sizeof text) == 0)
      state.driver = text;
    constexpr int kSm = 1, kMemory = 2, kGpuSensor = 0;
    state.sm_mhz = static_cast<int>(asked("nvmlDeviceGetClockInfo", device, kSm));
    state.sm_max_mhz = static_cast<int>(asked("nvmlDeviceGetMaxClockInfo", device, kSm));
    state.memory_mhz = static_cast<int>(asked("nvmlDeviceGetClockInfo", device, kMemory));
    state.celsius = static_cast<int>(asked("nvmlDeviceGetTemperature", device, kGpuSensor));
    state.power_watts = 1e-3 * asked("nvmlDeviceGetPowerUsage", device);
    state.power_limit_watts = 1e-3 * asked("nvmlDeviceGetEnforcedPowerLimit", device);
    return state;
  }

 private:
  template <class Function>
  Function find(const char* name) const {
    return library_ ? reinterpret_cast<Function>(dlsym(library_, name)) : nullptr;
  }
  template <class... Kind>
  double asked(const char* name, void* device, Kind... kind) const {
    using Ask = int (*)(void*, Kind..., unsigned*);
    unsigned value = 0;
    const auto ask = find<Ask>(name);
    return ask && ask(device, kind..., &value) == 0 ? value : 0;
  }

  void* library_;
  bool ready_ = false;
};

}  // namespace

const std::vector<DeviceInfo>& devices() {
  static const std::vector<DeviceInfo> found = find_devices();
  return found;
}

CudaVersions versions() {
  CudaVersions versions;
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  if (cudaRuntimeGetVersion(&versions.runtime) != cudaSuccess) versions.runtime = 0;
  static_cast<void>(cudaGetLastError());
  return versions;
}

DeviceState state_of(int device) {
  static const Management management;
  char bus_id[32] = {};
  if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return {};
  }
  return management.state(bus_id);
}

DeviceScope::DeviceScope(int device) {
  check(cudaGetDevice(&before_), "device");
  // Setting a device makes a context on it: not one more than needed.
  if (before_ == device)
    before_ = -1;
  else
    check(cudaSetDevice(device), "device");
}

DeviceScope::~DeviceScope() {
  if (before_ >= 0) static_cast<void>(cudaSetDevice(before_));
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "stream");
  return status != cudaStreamCaptureStatusNone;
}

void synchronize(void* stream) {
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "stream");
}

void copy_to_device(void* device, const void* host, int64_t bytes) {
  check(cudaMemcpy(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "copy to the device");
  // Bytes of pageable memory may still be on their way, and torch's other streams do not wait for the legacy one.
  check(cudaStreamSynchronize(cudaStreamLegacy), "copy to the device");
}

void copy_to_host(void* host, const void* device, int64_t bytes) {
  check(cudaMemcpy(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost), "copy from the device");
}

void fill(void* device, int value, int64_t bytes, void* stream) {
  check(cudaMemsetAsync(device, value, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), "fill");
}

DeviceMemory::DeviceMemory(int64_t bytes) : bytes_((std::max<int64_t>(bytes, 1) + 255) / 256 * 256) {
  check(cudaMalloc(&data_, static_cast<size_t>(bytes_)), "device memory");
}

DeviceMemory::~DeviceMemory() {
  if (data_) static_cast<void>(cudaFree(data_));
}

Stopwatch::Stopwatch() {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  begin_ = begin;
  check(cudaEventCreate(&end), "event");
  end_ = end;
}

Stopwatch::~Stopwatch() {
  for (void* event : {begin_, end_})
    static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(event)));
}

void Stopwatch::start(void* stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(begin_), static_cast<cudaStream_t>(stream)), "event");
}

double Stopwatch::stop(void* stream) {
  const auto end = static_cast<cudaEvent_t>(end_);
  check(cudaEventRecord(end, static_cast<cudaStream_t>(stream)), "event");
  check(cudaEventSynchronize(end), "event");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(begin_), end), "event");
  return 1e-3 * milliseconds;
}

}  // namespace fpsa::kernel::cuda
