// What a kernel's source may assume of the machine it is compiled for. There are two: the device (nvcc, sm_90a), where
// every function of this folder is one PTX instruction, and the emulation (any C++ compiler), where it is a call into
// emulation/. A kernel file is the same for both and names neither.
//
// The two live in inline namespaces of their own, so that one program may hold the device's launchers and the
// emulated kernels.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#define FPSA_TARGET sm90a
#define FPSA_EMULATED 0
// Code of a kernel; index arithmetic that host code uses too; one instruction with its PTX.
#define FPSA_DEVICE __device__ __forceinline__
#define FPSA_BOTH __host__ __device__ constexpr
#define FPSA_PTX(declaration, ...) __device__ __forceinline__ declaration __VA_ARGS__
// The place of a call, which errors of the emulation name: nothing on the device.
#define FPSA_SITE
#define FPSA_SITE_ONLY
#define FPSA_UNROLL _Pragma("unroll")

#else

#include "fpsa/kernel/cuda/emulation/site.h"
#define FPSA_TARGET emulated
#define FPSA_EMULATED 1
#define FPSA_DEVICE inline
#define FPSA_BOTH constexpr
#define FPSA_PTX(declaration, ...) declaration;
#define FPSA_SITE , emulation::Site site = emulation::Site::current()
#define FPSA_SITE_ONLY emulation::Site site = emulation::Site::current()
#define FPSA_UNROLL

#endif

namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET {

/// A byte address in the shared memory of the block.
using SharedAddress = uint32_t;

inline constexpr int kWarpThreads = 32, kWarpgroupThreads = 128;

}  // namespace fpsa::kernel::cuda::ptx::inline FPSA_TARGET
