#include "fpsa/kernel/cuda/emulation/warpgroup.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "fpsa/kernel/cuda/emulation/block.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/e4m3.h"
#include "fpsa/numeric/f16.h"

namespace fpsa::kernel::cuda::emulation {
namespace {

constexpr uint32_t kPoison = 0x7fbadbad;  // a NaN that no arithmetic makes
constexpr int kRows = 64;                 // of A
constexpr int kBytes = 32;                // along K

struct Descriptor {
  explicit Descriptor(uint64_t bits)
      : address(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        base_offset(static_cast<int>(bits >> 49 & 7)),
        swizzle(static_cast<ptx::Swizzle>(bits >> 62)) {}
  uint32_t address, leading, stride;
  int base_offset;
  ptx::Swizzle swizzle;

  /// Where 16 bytes lie: piece `piece` of row `row`. K-major: rows of A or of B's transpose, pieces along K. Along K:
  /// rows are K, pieces run along M or N.
  uint32_t at(int row, int piece, bool along_k) const {
    const auto width = static_cast<uint32_t>(ptx::swizzle_bytes(swizzle));
    const uint32_t byte = static_cast<uint32_t>(piece) * 16;
    const auto r = static_cast<uint32_t>(row);
    const uint32_t linear = along_k ? address + byte / width * leading + r / 8 * stride + r % 8 * width + byte % width
                                    : address + r / 8 * stride + r % 8 * width + byte;
    return ptx::swizzled(swizzle, linear);
  }
};

double element(Product::Type type, const uint8_t* at) {
  if (type == Product::kE4m3) return numeric::f32_from_e4m3(*at);
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return type == Product::kF16 ? numeric::f32_from_f16(bits) : numeric::f32_from_bf16(bits);
}

// The sum as a unit that aligns all terms to the largest and cuts off what lies `bits` below it.
double truncated_sum(double first, const double* terms, int count, int bits) {
  double largest = std::abs(first);
  for (int i = 0; i < count; ++i)
    largest = std::max(largest, std::abs(terms[i]));
  if (!(largest > 0) || std::isinf(largest)) {
    for (int i = 0; i < count; ++i)
      first += terms[i];
    return first;
  }
  const double unit = std::ldexp(1.0, std::ilogb(largest) - bits);
  double sum = std::trunc(first / unit);
  for (int i = 0; i < count; ++i)
    sum += std::trunc(terms[i] / unit);
  return sum * unit;
}

}  // namespace

size_t Warpgroup::lane() const {
  return static_cast<size_t>(block_->self() % 128);
}

void Warpgroup::check_operand(uint64_t bits, int rows, bool along_k, Site site) const {
  const Descriptor at(bits);
  const auto width = static_cast<uint32_t>(ptx::swizzle_bytes(at.swizzle));
  if (at.swizzle == ptx::Swizzle::kNone) block_->fail(site, "descriptor without swizzle: the kernels use none such");
  if (at.base_offset != 0) block_->fail(site, "descriptor with base offset ", at.base_offset, ": expected 0");
  if (at.address % (8 * width) >= width)
    block_->fail(site, "descriptor begins inside a pattern of ", 8 * width, " bytes, at address ", at.address);
  // One thread of a warp looks at every piece, the others at the first.
  const bool all = block_->self() % 32 == 0;
  const int height = along_k ? kBytes / 2 : rows, pieces = along_k ? rows * 2 / 16 : kBytes / 16;
  for (int row = 0; row < (all ? height : 1); ++row)
    for (int piece = 0; piece < (all ? pieces : 1); ++piece)
      block_->shared().check_readable(at.at(row, piece, along_k), 16, site);
}

void Warpgroup::deposit(const Product& product, float* d, const uint32_t* a, Site site) {
  Thread& thread = threads_[lane()];
  if (!thread.fenced)
    block_->fail(site, product.function(), " without wgmma.fence since its registers could last change");
  if (!product.a_in_registers) check_operand(product.a, kRows, product.a_rows_along_k, site);
  check_operand(product.b, product.columns, product.b_rows_along_k, site);
  const uint64_t index = thread.issued++;
  const auto at = static_cast<size_t>(index - executed_);
  if (at >= open_.size()) {
    open_.emplace_back();
    open_.back().product = product;
    open_.back().site = site;
  }
  Open& open = open_[at];
  if (open.product.a != product.a || open.product.b != product.b || open.product.columns != product.columns ||
      open.product.accumulate != product.accumulate || open.site.line != site.line)
    block_->fail(site, "the warpgroup diverges: product ", index, " is another one in other threads, line ",
                 open.site.line);
  open.d[lane()] = d;
  open.a[lane()] = a;
  if (a) thread.operands.push_back({a, {a[0], a[1], a[2], a[3]}, index});
  ++open.deposited;
  const auto registers = static_cast<size_t>(product.columns / 2);
  const auto found =
      std::ranges::find_if(thread.accumulators, [&](const Accumulator& other) { return other.registers == d; });
  if (found == thread.accumulators.end()) {
    thread.accumulators.push_back({d, std::vector<float>(d, d + registers), index,
                                   block_->mutated(Mutation::Kind::kSwap, product.function(), site)});
    std::fill_n(reinterpret_cast<uint32_t*>(d), registers, kPoison);
  } else {
    found->last = index;
    found->swap_pair = found->swap_pair || block_->mutated(Mutation::Kind::kSwap, product.function(), site);
  }
}

void Warpgroup::gather(const Product& product, uint64_t bits, int rows, bool along_k, Site site, double* into) const {
  const Descriptor at(bits);
  const int size = product.element_bytes(), per_piece = 16 / size, depth = kBytes / size;
  const int height = along_k ? depth : rows, pieces = along_k ? rows * size / 16 : kBytes / 16;
  for (int row = 0; row < height; ++row) {
    for (int piece = 0; piece < pieces; ++piece) {
      const uint8_t* from = block_->shared().async_read(at.at(row, piece, along_k), 16, index_ * 128, site);
      for (int i = 0; i < per_piece; ++i) {
        const int other = piece * per_piece + i, k = along_k ? row : other, r = along_k ? other : row;
        into[k * rows + r] = element(product.type, from + i * size);
      }
    }
  }
}

void Warpgroup::gather_registers(const Open& open, double* into) const {
  const int size = open.product.element_bytes();
  for (int thread = 0; thread < 128; ++thread) {
    const uint32_t* a = open.a[static_cast<size_t>(thread)];
    for (int i = 0; i < 4; ++i) {
      uint8_t bytes[4];
      std::memcpy(bytes, a + i, 4);
      const int row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
      const int k = (i / 2 * 16 + thread % 4 * 4) / size;
      for (int e = 0; e < 4 / size; ++e)
        into[(k + e) * kRows + row] = element(open.product.type, bytes + e * size);
    }
  }
}

void Warpgroup::execute() {
  const Open& open = open_.front();
  const Product& product = open.product;
  const int depth = kBytes / product.element_bytes(), columns = product.columns;
  std::vector<double> a(static_cast<size_t>(depth * kRows)), b(static_cast<size_t>(depth * columns));
  if (product.a_in_registers)
    gather_registers(open, a.data());
  else
    gather(product, product.a, kRows, product.a_rows_along_k, open.site, a.data());
  gather(product, product.b, columns, product.b_rows_along_k, open.site, b.data());

  const int bits = product.type != Product::kE4m3 ? 0 : block_->options().accumulator_bits;
  std::vector<double> sums(static_cast<size_t>(columns)), terms(static_cast<size_t>(depth));
  for (int row = 0; row < kRows; ++row) {
    std::ranges::fill(sums, 0.0);
    for (int k = 0; k < depth; ++k) {
      const double left = a[static_cast<size_t>(k * kRows + row)];
      const double* right = b.data() + k * columns;
      for (int n = 0; n < columns; ++n)
        sums[static_cast<size_t>(n)] += left * right[n];
    }
    // Thread and register of D[row][n].
    const int first = row / 16 * 32 + row % 8 * 4, half = row % 16 / 8;
    for (int n = 0; n < columns; ++n) {
      const auto thread = static_cast<size_t>(first + n % 8 / 2);
      const auto reg = static_cast<size_t>(n / 8 * 4 + half * 2 + n % 2);
      auto& accumulators = threads_[thread].accumulators;
      Accumulator& into = *std::ranges::find_if(
          accumulators, [&](const Accumulator& other) { return other.registers == open.d[thread]; });
      const double before = product.accumulate ? into.value[reg] : 0.0;
      if (bits == 0) {
        into.value[reg] = static_cast<float>(before + sums[static_cast<size_t>(n)]);
      } else {
        for (int k = 0; k < depth; ++k)
          terms[static_cast<size_t>(k)] =
              a[static_cast<size_t>(k * kRows + row)] * b[static_cast<size_t>(k * columns + n)];
        into.value[reg] = static_cast<float>(truncated_sum(before, terms.data(), depth, bits));
      }
    }
  }
  open_.pop_front();
  ++executed_;
  block_->notify(this);
}

void Warpgroup::wait(int groups, Site site) {
  Thread& thread = threads_[lane()];
  const size_t commits = thread.commits.size(), left = static_cast<size_t>(groups);
  const uint64_t target = commits > left ? thread.commits[commits - 1 - left] : 0;
  while (executed_ < target)
    block_->block_on(
        this, {"products up to", static_cast<uint32_t>(target), "of warpgroup", static_cast<uint32_t>(index_), site});
  thread.fenced = false;
  std::erase_if(thread.operands, [&](const Operand& operand) {
    if (operand.product >= target) return false;
    if (!std::equal(operand.at_issue.begin(), operand.at_issue.end(), operand.registers))
      block_->fail(site, "a register of A changed between a product and the wait for it");
    return true;
  });
  for (auto at = thread.accumulators.begin(); at != thread.accumulators.end();) {
    if (at->last >= target) {
      ++at;
      continue;
    }
    for (size_t i = 0; i < at->value.size(); ++i)
      if (std::bit_cast<uint32_t>(at->registers[i]) != kPoison)
        block_->fail(site, "register ", i, " of an accumulator was written before the wait for its product");
    if (at->swap_pair) std::swap(at->value[0], at->value[1]);
    std::copy(at->value.begin(), at->value.end(), at->registers);
    at = thread.accumulators.erase(at);
  }
}

void Warpgroup::check_idle_at_exit() {
  if (!threads_[lane()].accumulators.empty()) block_->fail({}, "the thread ends before it has waited for its products");
}

}  // namespace fpsa::kernel::cuda::emulation
