#include "fpsa/kernel/cuda/emulation/copies.h"

#include <algorithm>
#include <cstring>

#include "fpsa/kernel/cuda/emulation/block.h"

namespace fpsa::kernel::cuda::emulation {

using ptx::Swizzle;
using ptx::swizzle_bytes;
using ptx::TensorMapSpec;

Copies::Copies(Block& block) : block_(block) {}

Copies::Copy Copies::box(const TensorMapSpec& map, const int* at, uint32_t shared, Site site) const {
  const auto inner = map.box[0] * static_cast<uint32_t>(map.element_bytes);
  const auto pattern = map.swizzle == Swizzle::kNone ? 128u : static_cast<uint32_t>(8 * swizzle_bytes(map.swizzle));
  if (shared % pattern != 0) block_.fail(site, "box at shared address ", shared, ": expected a multiple of ", pattern);
  if (inner % 16 != 0 || (map.swizzle != Swizzle::kNone && inner != static_cast<uint32_t>(swizzle_bytes(map.swizzle))))
    block_.fail(site, "box of ", inner, " bytes along the innermost dimension does not fit its swizzle");
  if (reinterpret_cast<uintptr_t>(map.data) % 16 != 0) block_.fail(site, "tensor map: misaligned array");
  // What cuTensorMapEncodeTiled would refuse.
  for (int i = 0; i < map.rank; ++i) {
    if (map.box[i] < 1 || map.box[i] > 256)
      block_.fail(site, "tensor map: box of ", map.box[i], " elements in dimension ", i, ": expected 1 to 256");
    if (map.size[i] < 1 || map.size[i] > uint64_t{1} << 32)
      block_.fail(site, "tensor map: ", map.size[i], " elements in dimension ", i, ": expected 1 to 2^32");
    if (i > 0 && (map.stride[i] % 16 != 0 || map.stride[i] >= uint64_t{1} << 40))
      block_.fail(site, "tensor map: stride of ", map.stride[i], " bytes in dimension ", i,
                  ": expected a multiple of 16 below 2^40");
  }
  Copy copy;
  copy.swizzle = map.swizzle;
  copy.thread = block_.self();
  copy.site = site;
  const uint32_t rows = map.box[1], planes = map.rank > 2 ? map.box[2] : 1;
  const auto inside = [&](int dimension, int64_t index) {
    return index >= 0 && index < static_cast<int64_t>(map.size[dimension]);
  };
  for (uint32_t z = 0; z < planes; ++z) {
    for (uint32_t y = 0; y < rows; ++y) {
      const int64_t row = int64_t{at[1]} + y, plane = map.rank > 2 ? int64_t{at[2]} + z : 0;
      const bool exists = inside(1, row) && (map.rank < 3 || inside(2, plane));
      // Whole rows, but for those that the array's end cuts.
      for (uint32_t x = 0; x < map.box[0];) {
        const int64_t column = int64_t{at[0]} + x;
        const bool here = exists && inside(0, column);
        uint32_t end = x + 1;
        while (end < map.box[0] && (exists && inside(0, int64_t{at[0]} + end)) == here)
          ++end;
        const auto element = static_cast<uint32_t>(map.element_bytes);
        // The array is const to loads; stores ask for a map of something that may be written.
        uint8_t* global = !here ? nullptr
                                : static_cast<uint8_t*>(const_cast<void*>(map.data)) + column * map.element_bytes +
                                      row * static_cast<int64_t>(map.stride[1]) +
                                      plane * static_cast<int64_t>(map.stride[2]);
        copy.left.push_back({shared + (z * rows + y) * inner + x * element, global, (end - x) * element});
        x = end;
      }
    }
  }
  return copy;
}

void Copies::begin_load(const Copy& copy, uint32_t to, uint32_t blocks) {
  if (blocks == 0) block_.fail(copy.site, "copy to no block of the cluster");
  uint32_t bytes = 0;
  for (const Piece& piece : copy.left)
    bytes += piece.bytes;
  for (int rank = 0; blocks >> rank != 0; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    Block& target = block_.cluster().reach(rank, block_, copy.site);
    target.barriers().expect_landing(block_, copy.barrier, to, bytes, copy.site);
    target.shared().begin_load(block_, to, bytes, copy.barrier, copy.site);
    copies_.push_back(copy);
    copies_.back().to = &target;
  }
}

void Copies::load_box(uint32_t to, const TensorMapSpec& map, const int* at, uint32_t barrier, uint32_t blocks,
                      Site site) {
  Copy copy = box(map, at, to, site);
  copy.barrier = barrier;
  begin_load(copy, to, blocks);
}

void Copies::load_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint32_t blocks, Site site) {
  if (to % 16 != 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
    block_.fail(site, "copy of ", bytes, " bytes to shared address ", to, ": expected multiples of 16");
  Copy copy;
  copy.barrier = barrier;
  copy.thread = block_.self();
  copy.site = site;
  // Nothing writes through a load's pointer.
  auto* global = static_cast<uint8_t*>(const_cast<void*>(from));
  for (uint32_t at = 0; at < bytes; at += 16)
    copy.left.push_back({to + at, global + at, 16});
  begin_load(copy, to, blocks);
}

void Copies::store_box(const TensorMapSpec& map, const int* at, uint32_t from, Site site) {
  Copy copy = box(map, at, from, site);
  copy.load = false;
  for (const Piece& piece : copy.left)
    block_.shared().check_readable(piece.shared, piece.bytes, site);
  copies_.push_back(std::move(copy));
}

void Copies::commit() {
  for (Copy& copy : copies_)
    if (!copy.load && copy.thread == block_.self()) copy.committed = true;
}

void Copies::wait(Site site) {
  const int thread = block_.self();
  const auto mine = [&](const Copy& copy) { return !copy.load && copy.committed && copy.thread == thread; };
  while (std::ranges::any_of(copies_, mine))
    block_.block_on(this, {"stores", 0, "of thread", static_cast<uint32_t>(thread), site});
}

void Copies::move(const Copy& copy, const Piece& piece) {
  // 16 bytes stay together under every swizzle.
  for (uint32_t at = 0; at < piece.bytes; at += 16) {
    const uint32_t bytes = std::min(16u - (piece.shared + at) % 16, piece.bytes - at);
    const uint32_t shared = ptx::swizzled(copy.swizzle, piece.shared + at);
    if (!copy.load) {
      const uint8_t* from = block_.shared().async_read(shared, bytes, copy.thread, copy.site);
      if (piece.global) std::memcpy(piece.global + at, from, bytes);
    } else if (piece.global) {
      std::memcpy(copy.to->shared().landing(shared), piece.global + at, bytes);
    } else {
      std::memset(copy.to->shared().landing(shared), 0, bytes);
    }
  }
}

void Copies::advance(size_t which) {
  Copy& copy = copies_[which];
  if (copy.load && copy.to != &block_ && copy.to->threads_ended())
    block_.fail_for(copy.thread, copy.site, "a copy lands in block ", copy.to->index(),
                    " of the cluster, which has ended");
  const uint64_t count = 1 + block_.draw(copy.left.size());
  uint32_t bytes = 0;
  for (uint64_t i = 0; i < count; ++i) {
    std::swap(copy.left[block_.draw(copy.left.size())], copy.left.back());
    move(copy, copy.left.back());
    bytes += copy.left.back().bytes;
    copy.left.pop_back();
  }
  if (copy.load) copy.to->barriers().complete_bytes(block_, copy.barrier, bytes, copy.thread, copy.site);
  if (!copy.left.empty()) return;
  const bool load = copy.load;
  copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(which));
  if (!load) block_.notify(this);
}

}  // namespace fpsa::kernel::cuda::emulation
