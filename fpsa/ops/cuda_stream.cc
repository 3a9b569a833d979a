#include "fpsa/ops/cuda_stream.h"

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace fpsa::ops {
namespace {

// Newer headers call it stream_handle.
template <class Stream>
void* handle_of(const Stream& stream) {
  if constexpr (requires { stream.native_handle(); })
    return stream.native_handle();
  else
    return stream.stream_handle();
}

}  // namespace

void* current_cuda_stream(int device) {
  const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
  return handle_of(cuda.getStream({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)}));
}

}  // namespace fpsa::ops
