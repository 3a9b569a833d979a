// Bulk copies that are under way. They land piece by piece, in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fpsa/kernel/cuda/emulation/site.h"
#include "fpsa/kernel/cuda/ptx/tensor_map.h"

namespace fpsa::kernel::cuda::emulation {

class Block;

class Copies {
 public:
  explicit Copies(Block& block);

  // Issued by the current thread. `at` has the map's rank of coordinates; a bit of `blocks` is the rank of a block of
  // the cluster, which gets the bytes at the same address and counts them on its own barrier there.
  void load_box(uint32_t to, const ptx::TensorMapSpec& map, const int* at, uint32_t barrier, uint32_t blocks,
                Site site);
  void load_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint32_t blocks, Site site);
  void store_box(const ptx::TensorMapSpec& map, const int* at, uint32_t from, Site site);
  void commit();
  void wait(Site site);

  size_t under_way() const { return copies_.size(); }
  /// Moves some pieces of one of them.
  void advance(size_t which);

 private:
  // A run of bytes along the innermost dimension; global null: outside the array.
  struct Piece {
    uint32_t shared;  // before the swizzle
    uint8_t* global;
    uint32_t bytes;
  };
  struct Copy {
    bool load = true, committed = false;
    ptx::Swizzle swizzle = ptx::Swizzle::kNone;
    Block* to = nullptr;  // of a load
    uint32_t barrier = 0;
    int thread = 0;
    Site site;
    std::vector<Piece> left;
  };
  Copy box(const ptx::TensorMapSpec& map, const int* at, uint32_t shared, Site site) const;
  void begin_load(const Copy& copy, uint32_t to, uint32_t blocks);
  void move(const Copy& copy, const Piece& piece);

  Block& block_;
  std::vector<Copy> copies_;
};

}  // namespace fpsa::kernel::cuda::emulation
