// torch's current stream on a device, by the interface that every build of torch has: libc10_cuda is not linked.
#pragma once

namespace fpsa::ops {

/// The cudaStream_t of torch's current stream.
///   Errors    c10::Error: a torch without CUDA
void* current_cuda_stream(int device);

}  // namespace fpsa::ops
