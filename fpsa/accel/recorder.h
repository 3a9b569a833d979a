// The report and the clock that every method has.
#pragma once

#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "fpsa/accel/methods.h"

namespace fpsa::accel {

/// A Method with its bookkeeping done; subclasses compute.
class RecordingMethod : public Method {
 public:
  at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const nn::AttentionContext& context) final {
    const auto start = std::chrono::steady_clock::now();
    Explain entry;
    auto out = compute(q, k, v, context, entry);
    record(start, context, std::move(entry));
    return out;
  }
  at::Tensor attend(const nn::Projections& x, const nn::AttentionContext& context) final {
    const auto start = std::chrono::steady_clock::now();
    Explain entry;
    auto out = compute_projected(x, context, entry);
    if (!out.defined()) return Method::attend(x, context);
    record(start, context, std::move(entry));
    return out;
  }
  std::vector<Explain> report() const final {
    std::vector<Explain> entries;
    for (const auto& [key, entry] : entries_)
      entries.push_back(entry);
    return entries;
  }
  double seconds() const final { return seconds_; }
  void reset() final {
    entries_.clear();
    seconds_ = 0;
  }

 protected:
  /// Fills everything of the entry but layer and step.
  virtual at::Tensor compute(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const nn::AttentionContext& context, Explain& entry) = 0;
  /// The same with norm and rotation inside; undefined where that is not to be had, and the entry is of no account.
  virtual at::Tensor compute_projected(const nn::Projections&, const nn::AttentionContext&, Explain&) { return {}; }

 private:
  void record(std::chrono::steady_clock::time_point start, const nn::AttentionContext& context, Explain entry) {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    entry.layer = context.layer;
    entry.step = context.step;
    entries_[{context.step, context.layer}] = std::move(entry);
  }

  std::map<std::pair<int64_t, int64_t>, Explain> entries_;
  double seconds_ = 0;
};

}  // namespace fpsa::accel
