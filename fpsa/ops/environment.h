// The one place that reads the process environment for kernels.
#pragma once

namespace fpsa::ops {

/// Applies FPSA_ISA (a name of kernel/cpu/isa.h, or "auto") to the kernel table, the first time it is called.
/// Every operator calls it; a program that reports the selected kernels calls it first.
///   Errors    fpsa::Error on an unknown or unsupported name, at every call until it is mended
void apply_environment();

}  // namespace fpsa::ops
