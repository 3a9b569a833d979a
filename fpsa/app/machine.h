// What this program runs on: processor, memory, threads, libtorch, GPU.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace fpsa::app {

/// Memory of the machine, or of the container that limits it further.
struct MemoryState {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;
};

MemoryState memory_state();

/// Largest resident size of this process so far, mapped checkpoint pages included.
int64_t peak_resident_bytes();

/// "AMD EPYC 9B45", or "unknown processor".
std::string processor_name();

/// Logical processors this process may use.
int available_processors();

/// Sets torch's threads; 0 leaves what there are.
void use_threads(int64_t threads);

/// Processor, instruction set and torch's threads, "AMD EPYC, avx2, 2 threads": what figures of time are of.
std::string machine_line();

/// GPUs that this build of torch can drive; 0 with a CPU build.
int cuda_device_count();

/// "1.5 GiB", "310 MiB".
std::string bytes_text(int64_t bytes);

/// Everything above with ISA, kernels and versions, for reports and for `fpsa info`.
nlohmann::json describe_machine();

}  // namespace fpsa::app
