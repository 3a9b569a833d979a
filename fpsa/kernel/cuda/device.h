// The little of the CUDA runtime that host code without CUDA headers needs: devices, memory, time on a stream.
//
// In a build without the kernels devices() is empty and everything that needs a device throws unavailable_reason().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fpsa::kernel::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name;          // "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0, l2_bytes = 0;
  int clock_mhz = 0;  // highest, of the multiprocessors

  /// Whether sm_90a code runs there: it does on compute capability 9.0 and nowhere else.
  bool runs_sm90a() const { return major == 9 && minor == 0; }
};

/// Every device of the driver; none without a driver. Asked once for the process.
///   Threads   safe. Starts the driver, after which CUDA does not work in a forked child
const std::vector<DeviceInfo>& devices();

/// CUDA versions as 1000 major + 10 minor; 0 where there is none.
struct CudaVersions {
  int driver = 0, runtime = 0;
};
CudaVersions versions();

/// What the driver's management library says of a device now; zeros and empty where there is no such library.
struct DeviceState {
  std::string driver;  // "580.65.06"
  int sm_mhz = 0, sm_max_mhz = 0, memory_mhz = 0;
  double power_watts = 0, power_limit_watts = 0;
  int celsius = 0;
};
DeviceState state_of(int device);

/// Makes a device the current one of this thread for the kernels of this build, which have a runtime of their own
/// beside torch's, and puts the former one back.
///   Errors    fpsa::Error: no such device
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = -1;  // -1: nothing to put back
};

/// Whether what is enqueued on a stream (a cudaStream_t) goes into a graph instead.
bool is_capturing(void* stream);
/// Waits for a stream's work.
///   Errors    fpsa::Error with CUDA's name of the error, also of one in an earlier launch
void synchronize(void* stream);
/// Copies and waits, so that any stream finds the bytes; to the host what the default stream wrote, or another one that
/// was waited for. Neither may be called while a stream of the thread is captured.
void copy_to_device(void* device, const void* host, int64_t bytes);
void copy_to_host(void* host, const void* device, int64_t bytes);
/// Enqueues writing one byte value over memory.
void fill(void* device, int value, int64_t bytes, void* stream);

/// Memory of the current device, a multiple of 256 bytes and at a multiple of 256.
///   Errors    fpsa::Error: not enough memory
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// The time between two points of a stream of the current device, by events.
class Stopwatch {
 public:
  Stopwatch();
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  void start(void* stream);
  /// Enqueues the end, waits for it and returns the seconds since start().
  double stop(void* stream);

 private:
  void *begin_ = nullptr, *end_ = nullptr;
};

}  // namespace fpsa::kernel::cuda
