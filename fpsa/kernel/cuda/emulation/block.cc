#include "fpsa/kernel/cuda/emulation/block.h"

#include <algorithm>
#include <memory>
#include <random>

namespace fpsa::kernel::cuda::emulation {
namespace {

thread_local Block* running = nullptr;

}  // namespace

Block::Block(const Launch& launch, const Options& options, int index, const std::function<void()>& kernel,
             Report& report, Cluster& cluster)
    : launch_(launch),
      options_(options),
      index_(index),
      kernel_(kernel),
      report_(report),
      cluster_(cluster),
      random_(options.seed * 1000003 + static_cast<uint64_t>(index)),
      fibers_(launch.threads,
              [this](int) {
                try {
                  kernel_();
                  if (self() / 128 < static_cast<int>(warpgroups_.size())) warpgroup().check_idle_at_exit();
                  cluster_.thread_ended(*this);
                } catch (...) {
                  failure_ = std::current_exception();
                }
              }),
      shared_(*this, launch.shared_base, launch.shared_bytes),
      barriers_(*this),
      copies_(*this),
      registers_(*this),
      runnable_(static_cast<size_t>(launch.threads / 32)),
      runnable_count_(launch.threads),
      left_(launch.threads),
      waiting_(static_cast<size_t>(launch.threads)) {
  for (int i = 0; i < launch.threads / 32; ++i)
    warps_.emplace_back(*this, i);
  for (int i = 0; i < launch.threads / 128; ++i)
    warpgroups_.emplace_back(*this, i);
  for (int i = 0; i < launch.threads; ++i)
    runnable_[static_cast<size_t>(i / 32)].push_back(i);
}

Block& Block::current() {
  return *running;
}

bool Block::happen() {
  const size_t copies = copies_.under_way();
  std::vector<Warpgroup*> ready;
  for (Warpgroup& group : warpgroups_)
    if (group.has_ready()) ready.push_back(&group);
  if (copies + ready.size() == 0) return false;
  const size_t which = draw(copies + ready.size());
  if (which < copies)
    copies_.advance(which);
  else
    ready[which - copies]->execute();
  return true;
}

bool Block::can_go_on() const {
  return runnable_count_ > 0 || copies_.under_way() > 0 ||
         std::ranges::any_of(warpgroups_, [](const Warpgroup& group) { return group.has_ready(); });
}

std::string Block::waiting_threads() const {
  // Threads that wait for the same thing make one line.
  std::map<std::string, std::vector<int>> lines;
  for (const auto& [key, threads] : blocked_) {
    for (const int thread : threads) {
      const Waiting& at = waiting_[static_cast<size_t>(thread)];
      std::ostringstream text;
      text << at.what << ' ' << at.value << ' ' << at.where << ' ' << at.id << ", at " << at.site.file << ':'
           << at.site.line;
      lines[text.str()].push_back(thread);
    }
  }
  std::ostringstream text;
  for (auto& [what, threads] : lines) {
    std::ranges::sort(threads);
    text << "\n  thread " << threads.front();
    if (threads.size() > 1) text << " and " << threads.size() - 1 << " more up to " << threads.back();
    text << ": waits for " << what;
  }
  return text.str();
}

int Block::choose() {
  if (picks_++ % 256 == 0) {
    favoured_warp_ = static_cast<int>(draw(runnable_.size()));
    calm_ = uint64_t{2} << draw(6);
  }
  // Long enough for the others to come to the same place again.
  if (picks_ >= starved_until_) {
    starved_thread_ = static_cast<int>(draw(static_cast<uint64_t>(launch_.threads)));
    starved_until_ = picks_ + (uint64_t{256} << draw(7));
  }
  for (int attempt = 0;; ++attempt) {
    const bool favour = attempt == 0 && draw(4) != 0;
    const auto& warp = runnable_[favour ? static_cast<size_t>(favoured_warp_) : draw(runnable_.size())];
    if (warp.empty()) continue;
    const int thread = warp[draw(warp.size())];
    if (thread != starved_thread_ || runnable_count_ == 1) return thread;
  }
}

bool Block::advance(uint64_t steps) {
  Block* const outer = std::exchange(running, this);
  struct Restore {
    Block* outer;
    ~Restore() { running = outer; }
  } restore{outer};
  for (; left_ > 0; --steps) {
    if (steps == 0) return true;
    if (runnable_count_ == 0) {
      if (!happen()) return true;
      continue;
    }
    if (draw(calm_) == 0 && happen()) continue;
    const int thread = choose();
    fibers_.resume(thread);
    if (failure_) std::rethrow_exception(failure_);
    if (fibers_.ended(thread)) {
      std::erase(runnable_[static_cast<size_t>(thread / 32)], thread);
      --runnable_count_;
      --left_;
    }
  }
  while (happen()) {
  }
  barriers_.check_idle_at_exit();
  registers_.check_warpgroups_at_exit();
  return false;
}

void Block::wait_for_others(const uint32_t* counter, uint32_t value, Site site) {
  // More polls than any schedule of the tests needs.
  for (int polls = 0; *counter < value; ++polls) {
    if (polls == 200000) fail(site, "waits in vain for a counter of the grid: ", *counter, " of ", value);
    fibers_.yield();
  }
}

void Block::begin(const char* function, Site site) {
  if (seen_.emplace(function, site.line).second) {
    Call call{function, site.file, site.line};
    if (std::ranges::find(report_.calls, call) == report_.calls.end()) report_.calls.push_back(std::move(call));
  }
  if (draw(16) == 0) fibers_.yield();
}

bool Block::mutated(Mutation::Kind kind, const char* function, Site site) const {
  const auto& mutation = options_.mutation;
  return mutation && mutation->kind == kind && mutation->call.line == site.line &&
         mutation->call.function == function && mutation->call.file == site.file;
}

void Block::block_on(const void* key, const Waiting& waiting) {
  const int thread = self();
  waiting_[static_cast<size_t>(thread)] = waiting;
  std::erase(runnable_[static_cast<size_t>(thread / 32)], thread);
  --runnable_count_;
  blocked_[key].push_back(thread);
  fibers_.yield();
}

void Block::notify(const void* key) {
  const auto found = blocked_.find(key);
  if (found == blocked_.end()) return;
  for (const int thread : found->second)
    runnable_[static_cast<size_t>(thread / 32)].push_back(thread);
  runnable_count_ += static_cast<int>(found->second.size());
  blocked_.erase(found);
}

Report run(const Launch& launch, const Options& options, const std::function<void()>& kernel) {
  if (launch.blocks < 1 || launch.threads < 32 || launch.threads > 1024 || launch.threads % 32 != 0)
    throw std::invalid_argument("launch: expected 1 or more blocks of 32 to 1024 threads, a multiple of 32");
  if (launch.cluster < 1 || launch.cluster > 8 || launch.blocks % launch.cluster != 0)
    throw std::invalid_argument("launch: expected clusters of 1 to 8 blocks and a multiple of them, got " +
                                std::to_string(launch.blocks) + " blocks in clusters of " +
                                std::to_string(launch.cluster));
  if (launch.shared_bytes > 227 * 1024)
    throw std::invalid_argument("launch: expected at most 232448 bytes of shared memory, got " +
                                std::to_string(launch.shared_bytes));
  if (launch.registers * launch.threads > 65536)
    throw std::invalid_argument("launch: " + std::to_string(launch.registers) + " registers for " +
                                std::to_string(launch.threads) + " threads are more than 65536");
  Report report;
  // Blocks that run together take turns of a length that differs, so that one may be far ahead.
  std::mt19937_64 random(options.seed);
  std::vector<std::unique_ptr<Cluster>> running_clusters;
  int started = 0;
  while (started < launch.blocks || !running_clusters.empty()) {
    while (started < launch.blocks && static_cast<int>(running_clusters.size()) < std::max(launch.together, 1)) {
      running_clusters.push_back(std::make_unique<Cluster>(launch, options, started, kernel, report));
      started += launch.cluster;
    }
    const size_t which = random() % running_clusters.size();
    const uint64_t steps = uint64_t{1} << random() % 16;
    if (!running_clusters[which]->advance(steps, random))
      running_clusters.erase(running_clusters.begin() + static_cast<std::ptrdiff_t>(which));
  }
  return report;
}

}  // namespace fpsa::kernel::cuda::emulation
