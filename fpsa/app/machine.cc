#include "fpsa/app/machine.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <limits>
#include <sstream>

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/kernel/table.h"

namespace fpsa::app {
namespace {

// The value in bytes of a "Name:   123 kB" line, -1 when it is not there.
int64_t meminfo_bytes(const std::string& name) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name + ":")) return std::strtoll(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
  return -1;
}

// A number in a one-line file of the control group; "max" and absent files mean no limit.
int64_t control_group_bytes(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : std::numeric_limits<int64_t>::max();
}

int64_t control_group_stat(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value)
    if (name == key) return value;
  return 0;
}

}  // namespace

MemoryState memory_state() {
  MemoryState state{meminfo_bytes("MemTotal"), meminfo_bytes("MemAvailable")};
  // Version 2 of control groups, then version 1. File pages count as used there but are given back on demand.
  const struct {
    const char *limit, *used, *stat, *reclaimable;
  } groups[] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
       "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"}};
  for (const auto& group : groups) {
    const int64_t limit = control_group_bytes(group.limit);
    if (limit >= state.total_bytes) continue;
    const int64_t used = control_group_bytes(group.used) - control_group_stat(group.stat, group.reclaimable);
    state.total_bytes = limit;
    state.available_bytes = std::min(state.available_bytes, std::max<int64_t>(limit - used, 0));
    break;
  }
  return state;
}

int64_t peak_resident_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;  // Linux counts in KiB
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      if (const auto colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "unknown processor";
}

void use_threads(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

std::string machine_line() {
  const int threads = at::get_num_threads();
  return join(processor_name(), ", ", describe_machine().at("isa").get<std::string>(), ", ", threads,
              threads == 1 ? " thread" : " threads");
}

int available_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

int cuda_device_count() {
  return at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().deviceCount()) : 0;
}

std::string bytes_text(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  std::ostringstream out;
  out << std::fixed << std::setprecision(unit == 0 || value >= 100 ? 0 : 1) << value << ' ' << units[unit];
  return out.str();
}

nlohmann::json describe_machine() {
  const auto memory = memory_state();
  auto levels = nlohmann::json::array();
  for (const auto isa : kernel::all_isas())
    if (isa <= kernel::detected_isa()) levels.push_back(kernel::isa_name(isa));
  auto gpus = nlohmann::json::array();
  for (const auto& gpu : kernel::cuda::devices())
    gpus.push_back({{"name", gpu.name},
                    {"compute_capability", join(gpu.major, '.', gpu.minor)},
                    {"multiprocessors", gpu.multiprocessors},
                    {"memory_bytes", gpu.memory_bytes},
                    {"runs_kernels", gpu.runs_sm90a()}});
  return {{"processor", processor_name()},
          {"logical_processors", available_processors()},
          {"threads", at::get_num_threads()},
          {"isa_levels", levels},
          {"isa", kernel::isa_name(kernel::current_isa())},
          {"kernels", kernel::selected()},
          {"memory_total_bytes", memory.total_bytes},
          {"memory_available_bytes", memory.available_bytes},
          {"torch", TORCH_VERSION},
          {"torch_cuda_devices", cuda_device_count()},
          {"cuda_kernels", kernel::cuda::built()},
          {"cuda_reason", kernel::cuda::unavailable_reason()},
          {"cuda_devices", gpus}};
}

}  // namespace fpsa::app
