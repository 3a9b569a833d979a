#include "fpsa/kernel/cuda/emulation/cluster.h"

#include <algorithm>
#include <string>

#include "fpsa/kernel/cuda/emulation/block.h"

namespace fpsa::kernel::cuda::emulation {

Cluster::Cluster(const Launch& launch, const Options& options, int first, const std::function<void()>& kernel,
                 Report& report)
    : order_(launch.cluster * launch.threads),
      ended_(static_cast<size_t>(launch.cluster)),
      steps_(static_cast<size_t>(launch.cluster * launch.threads)),
      arrived_at_(steps_.size()),
      threads_(launch.cluster * launch.threads) {
  for (int rank = 0; rank < launch.cluster; ++rank)
    blocks_.push_back(std::make_unique<Block>(launch, options, first + rank, kernel, report, *this));
}

Cluster::~Cluster() = default;

bool Cluster::advance(uint64_t steps, std::mt19937_64& random) {
  size_t which = blocks_.size() > 1 ? random() % blocks_.size() : 0;
  while (ended_[which])
    which = (which + 1) % blocks_.size();
  const bool more = blocks_[which]->advance(steps);
  ended_[which] = !more;
  if (more && std::ranges::none_of(blocks_, [](const auto& block) { return block->can_go_on(); })) deadlock();
  return std::ranges::find(ended_, false) != ended_.end();
}

void Cluster::deadlock() const {
  std::string text = "deadlock:";
  for (const auto& block : blocks_) {
    if (size() > 1) text += "\n block " + std::to_string(block->index()) + ":";
    text += block->waiting_threads();
  }
  blocks_.front()->fail_for(-1, {}, text);
}

Block& Cluster::reach(int rank, const Block& from, Site site) {
  if (rank < 0 || rank >= size()) from.fail(site, "reaches for block ", rank, " of a cluster of ", size());
  Block& block = *blocks_[static_cast<size_t>(rank)];
  if (&block != &from && block.threads_ended())
    from.fail(site, "reaches into block ", block.index(), " of its cluster, which has ended");
  return block;
}

Cluster::Step& Cluster::step_of(const Block& block) {
  return steps_[static_cast<size_t>(block.number(block.self()))];
}

void Cluster::end_if_complete() {
  if (threads_ == 0 || arrived_ < threads_) return;
  arrived_ = 0;
  clocks_.end(generation_);
  ++generation_;
  for (const auto& block : blocks_)
    block->notify(this);
}

void Cluster::arrive(const Block& block, Site site) {
  Step& step = step_of(block);
  if (step == Step::kArrived) block.fail(site, "arrives twice at the cluster's barrier without a wait in between");
  step = Step::kArrived;
  arrived_at_[static_cast<size_t>(&step - steps_.data())] = generation_;
  clocks_.arrive(order_, block.number(block.self()));
  ++arrived_;
  end_if_complete();
}

void Cluster::wait(Block& block, Site site) {
  Step& step = step_of(block);
  if (step != Step::kArrived) block.fail(site, "waits at the cluster's barrier without having arrived");
  const uint64_t mine = arrived_at_[static_cast<size_t>(&step - steps_.data())];
  while (generation_ == mine)
    block.block_on(
        this, {"threads", static_cast<uint32_t>(threads_), "of cluster barrier", static_cast<uint32_t>(mine), site});
  step = Step::kElsewhere;
  clocks_.wait(order_, block.number(block.self()), mine);
}

void Cluster::thread_ended(const Block& block) {
  const Step& step = step_of(block);
  const uint64_t last = arrived_at_[static_cast<size_t>(&step - steps_.data())];
  if (step == Step::kArrived && last == generation_) --arrived_;
  --threads_;
  end_if_complete();
}

}  // namespace fpsa::kernel::cuda::emulation
