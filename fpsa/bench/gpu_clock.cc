#include "fpsa/bench/gpu_clock.h"

#include <algorithm>
#include <exception>

#include "fpsa/kernel/cuda/device.h"

namespace fpsa::bench {
namespace {

namespace cuda = kernel::cuda;

class EventClock final : public GpuClock {
 public:
  EventClock(int device, void* stream)
      : current_(device), stream_(stream), flush_(2 * cuda::devices()[static_cast<size_t>(device)].l2_bytes) {}

  double seconds(const std::function<void()>& enqueue) override {
    cuda::fill(flush_.data(), 0, flush_.bytes(), stream_);
    watch_.start(stream_);
    enqueue();
    return watch_.stop(stream_);
  }

 private:
  cuda::DeviceScope current_;
  void* stream_;
  cuda::DeviceMemory flush_;
  cuda::Stopwatch watch_;
};

}  // namespace

std::unique_ptr<GpuClock> event_clock(int device, void* stream) {
  return std::make_unique<EventClock>(device, stream);
}

void time_case(GpuClock& clock, const std::function<void()>& call, int samples, GpuCase& item) {
  try {
    for (int i = 0; i < 2; ++i)
      clock.seconds(call);
    std::vector<double> times;
    for (int i = 0; i < samples; ++i)
      times.push_back(clock.seconds(call));
    std::ranges::sort(times);
    const size_t middle = times.size() / 2;
    item.seconds = times.size() % 2 ? times[middle] : (times[middle - 1] + times[middle]) / 2;
    item.spread = (times.back() - times.front()) / item.seconds;
    item.samples = samples;
  } catch (const std::exception& error) {
    item.failure = error.what();
  }
}

}  // namespace fpsa::bench
