#include "fpsa/train/accuracy.h"

#include <cmath>
#include <cstdio>

namespace fpsa::train {
namespace {

constexpr double kZ = 1.959964;  // 97.5% quantile of the normal distribution

// Wilson (1927): the interval of the shares p whose own normal interval holds the observed one.
double wilson(const Share& share, double sign) {
  if (share.total == 0) return sign < 0 ? 0.0 : 1.0;
  const double n = static_cast<double>(share.total), p = share.value();
  const double middle = p + kZ * kZ / (2 * n);
  const double half = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  return (middle + sign * half) / (1 + kZ * kZ / n);
}

std::array<bool, 4> agreement(const Reading& reading, const ClipSpec& spec) {
  const Agreement a = compare(reading, spec);
  return {a.shape, a.colour, a.background, a.motion};
}

}  // namespace

double Share::low() const {
  return wilson(*this, -1.0);
}
double Share::high() const {
  return wilson(*this, 1.0);
}

void Accuracy::add(const ClipSpec& spec, const Reading& reading) {
  specs_.push_back(spec);
  readings_.push_back(reading);
}

std::array<Share, 4> Accuracy::score(size_t offset) const {
  std::array<Share, 4> out;
  for (size_t i = 0; i < specs_.size(); ++i) {
    const auto right = agreement(readings_[i], specs_[(i + offset) % specs_.size()]);
    for (size_t a = 0; a < out.size(); ++a) {
      out[a].right += right[a];
      ++out[a].total;
    }
  }
  return out;
}

Share Accuracy::all_right() const {
  Share out;
  for (size_t i = 0; i < specs_.size(); ++i) {
    const auto right = agreement(readings_[i], specs_[i]);
    out.right += right[0] && right[1] && right[2] && right[3];
    ++out.total;
  }
  return out;
}

Figures Accuracy::figures() const {
  Figures out;
  const auto shares = this->shares();
  for (size_t a = 0; a < shares.size(); ++a)
    out["accuracy_" + std::string(kAttributeNames[a])] = shares[a].value();
  out["accuracy_all"] = all_right().value();
  out["prompts"] = static_cast<double>(specs_.size());
  return out;
}

std::string Accuracy::table() const {
  std::string out = "| attribute | right | share | 95% interval | shuffled prompts |\n|---|---|---|---|---|\n";
  const auto shares = this->shares(), shuffled = control();
  char line[160];
  for (size_t a = 0; a < shares.size(); ++a) {
    std::snprintf(line, sizeof line, "| %s | %lld/%lld | %.1f%% | %.1f%% .. %.1f%% | %.1f%% |\n",
                  kAttributeNames[a].data(), static_cast<long long>(shares[a].right),
                  static_cast<long long>(shares[a].total), 100 * shares[a].value(), 100 * shares[a].low(),
                  100 * shares[a].high(), 100 * shuffled[a].value());
    out += line;
  }
  const Share all = all_right();
  std::snprintf(line, sizeof line, "| all four | %lld/%lld | %.1f%% | %.1f%% .. %.1f%% | |\n",
                static_cast<long long>(all.right), static_cast<long long>(all.total), 100 * all.value(),
                100 * all.low(), 100 * all.high());
  return out + line;
}

}  // namespace fpsa::train
