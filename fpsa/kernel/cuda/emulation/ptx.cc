// The functions of ptx/, emulated: each notes its call, obeys the mutation under test and does the instruction.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "fpsa/kernel/cuda/emulation/block.h"
#include "fpsa/kernel/cuda/ptx/barrier.h"
#include "fpsa/kernel/cuda/ptx/cluster.h"
#include "fpsa/kernel/cuda/ptx/copy.h"
#include "fpsa/kernel/cuda/ptx/global.h"
#include "fpsa/kernel/cuda/ptx/math.h"
#include "fpsa/kernel/cuda/ptx/thread.h"
#include "fpsa/kernel/cuda/ptx/wgmma.h"
#include "fpsa/numeric/bf16.h"
#include "fpsa/numeric/e4m3.h"
#include "fpsa/numeric/f16.h"

namespace fpsa::kernel::cuda::ptx::inline emulated {

using emulation::Block;
using emulation::Mutation;
using emulation::Product;
using emulation::Site;

namespace {

// The current block, unless the call is dropped.
Block* begin(const char* function, Site site) {
  Block& block = Block::current();
  block.begin(function, site);
  return block.mutated(Mutation::Kind::kDrop, function, site) ? nullptr : &block;
}

uint32_t own_bit(const Block& block) {
  return uint32_t{1} << block.rank();
}

// The blocks that a copy for several goes to.
uint32_t blocks_of(const Block& block, uint32_t blocks, const char* function, Site site) {
  if (block.mutated(Mutation::Kind::kFlip, function, site)) return blocks & ~own_bit(block);
  if (block.mutated(Mutation::Kind::kOwn, function, site)) return own_bit(block);
  return blocks;
}

void deposit(const Product& product, float* d, const uint32_t* a, Site site) {
  if (Block* block = begin(product.function(), site)) block->warpgroup().deposit(product, d, a, site);
}

Product::Type of_16_bits(Element element) {
  return element == Element::kF16 ? Product::kF16 : Product::kBf16;
}

}  // namespace

int thread_index() {
  return Block::current().self();
}
int block_threads() {
  return Block::current().threads();
}
int block_index() {
  return Block::current().index();
}
int grid_blocks() {
  return Block::current().launch().blocks;
}
SharedAddress shared_memory() {
  return Block::current().launch().shared_base;
}
void shared_read(SharedAddress address, void* into, int bytes, Site site) {
  Block& block = Block::current();
  block.begin("load_shared", site);
  block.shared().read(address, into, static_cast<uint32_t>(bytes), site);
}
void shared_write(SharedAddress address, const void* from, int bytes, Site site) {
  Block& block = Block::current();
  block.begin("store_shared", site);
  block.shared().write(address, from, static_cast<uint32_t>(bytes), site);
}
void sync_block(Site site) {
  if (Block* block = begin("sync_block", site)) block->barriers().named(0, block->threads(), true, site);
}
void sync_warp(Site site) {
  if (Block* block = begin("sync_warp", site)) block->warp().sync(site);
}
bool elect_one(Site site) {
  Block& block = Block::current();
  block.begin("elect_one", site);
  return block.warp().elect(site);
}
float shuffle_xor(float value, int mask, Site site) {
  Block& block = Block::current();
  block.begin("shuffle_xor", site);
  return std::bit_cast<float>(block.warp().shuffle_xor(std::bit_cast<uint32_t>(value), mask, site));
}
uint32_t shuffle_xor(uint32_t value, int mask, Site site) {
  return std::bit_cast<uint32_t>(shuffle_xor(std::bit_cast<float>(value), mask, site));
}
bool any_in_warp(bool condition, Site site) {
  Block& block = Block::current();
  block.begin("any_in_warp", site);
  return block.warp().any(condition, site);
}
uint32_t max_in_warp(uint32_t value, Site site) {
  Block& block = Block::current();
  block.begin("max_in_warp", site);
  return block.warp().max(value, site);
}
void store_matrix_x4(SharedAddress row, const uint32_t (&values)[4], Site site) {
  if (Block* block = begin("store_matrix_x4", site)) block->warp().store_matrix(row, values, site);
}
void load_matrix_x4(SharedAddress row, uint32_t (&values)[4], Site site) {
  if (Block* block = begin("load_matrix_x4", site)) block->warp().load_matrix(row, values, site);
}
void set_max_registers(int registers, bool raise, Site site) {
  if (Block* block = begin("set_max_registers", site)) block->warp().set_registers(registers, raise, site);
}

void mbarrier_init(SharedAddress barrier, uint32_t arrivals, Site site) {
  if (Block* block = begin("mbarrier_init", site)) block->barriers().init(barrier, arrivals, site);
}
void fence_barrier_init(Site site) {
  if (Block* block = begin("fence_barrier_init", site)) block->barriers().fence_init();
}
void mbarrier_arrive_expect_tx(SharedAddress barrier, uint32_t bytes, Site site) {
  if (Block* block = begin("mbarrier_arrive_expect_tx", site)) block->barriers().arrive(barrier, bytes, site);
}
void mbarrier_arrive(SharedAddress barrier, Site site) {
  if (Block* block = begin("mbarrier_arrive", site)) block->barriers().arrive(barrier, 0, site);
}
void mbarrier_wait(SharedAddress barrier, uint32_t parity, Site site) {
  Block* block = begin("mbarrier_wait", site);
  if (!block) return;
  if (block->mutated(Mutation::Kind::kFlip, "mbarrier_wait", site)) parity ^= 1;
  block->barriers().wait(barrier, parity, site);
}
int cluster_rank(Site site) {
  Block& block = Block::current();
  block.begin("cluster_rank", site);
  const bool flip = block.mutated(Mutation::Kind::kFlip, "cluster_rank", site);
  return flip ? (block.rank() + 1) % block.launch().cluster : block.rank();
}
void cluster_arrive(Site site) {
  if (Block* block = begin("cluster_arrive", site)) block->cluster().arrive(*block, site);
}
void cluster_wait(Site site) {
  if (Block* block = begin("cluster_wait", site)) block->cluster().wait(*block, site);
}
// The rank above an address; one more, so that an address of the block itself is none of these.
ClusterAddress map_to_block(SharedAddress address, int rank) {
  return address | static_cast<uint32_t>(rank + 1) << 24;
}
void mbarrier_arrive_cluster(ClusterAddress barrier, Site site) {
  Block* block = begin("mbarrier_arrive_cluster", site);
  if (!block) return;
  int rank = barrier >> 24 == 0 ? block->rank() : static_cast<int>(barrier >> 24) - 1;
  if (block->mutated(Mutation::Kind::kFlip, "mbarrier_arrive_cluster", site))
    rank = (rank + 1) % block->launch().cluster;
  if (block->mutated(Mutation::Kind::kOwn, "mbarrier_arrive_cluster", site)) rank = block->rank();
  block->cluster().reach(rank, *block, site).barriers().arrive_from(*block, barrier & 0xffffff, 0, site);
}
void barrier_sync(int barrier, int threads, Site site) {
  if (Block* block = begin("barrier_sync", site)) block->barriers().named(barrier, threads, true, site);
}
void barrier_arrive(int barrier, int threads, Site site) {
  if (Block* block = begin("barrier_arrive", site)) block->barriers().named(barrier, threads, false, site);
}
void fence_proxy_async(Site site) {
  if (Block* block = begin("fence_proxy_async", site)) block->shared().fence();
}

void copy_box_2d(SharedAddress to, const TensorMap& map, int x, int y, SharedAddress barrier, Site site) {
  const int at[] = {x, y};
  if (Block* block = begin("copy_box_2d", site))
    block->copies().load_box(to, map.spec, at, barrier, own_bit(*block), site);
}
void copy_box_3d(SharedAddress to, const TensorMap& map, int x, int y, int z, SharedAddress barrier, Site site) {
  const int at[] = {x, y, z};
  if (Block* block = begin("copy_box_3d", site))
    block->copies().load_box(to, map.spec, at, barrier, own_bit(*block), site);
}
void copy_bytes(SharedAddress to, const void* from, uint32_t bytes, SharedAddress barrier, Site site) {
  if (Block* block = begin("copy_bytes", site))
    block->copies().load_bytes(to, from, bytes, barrier, own_bit(*block), site);
}
void copy_box_2d_multicast(SharedAddress to, const TensorMap& map, int x, int y, SharedAddress barrier, uint16_t blocks,
                           Site site) {
  const int at[] = {x, y};
  if (Block* block = begin("copy_box_2d_multicast", site))
    block->copies().load_box(to, map.spec, at, barrier, blocks_of(*block, blocks, "copy_box_2d_multicast", site), site);
}
void copy_box_3d_multicast(SharedAddress to, const TensorMap& map, int x, int y, int z, SharedAddress barrier,
                           uint16_t blocks, Site site) {
  const int at[] = {x, y, z};
  if (Block* block = begin("copy_box_3d_multicast", site))
    block->copies().load_box(to, map.spec, at, barrier, blocks_of(*block, blocks, "copy_box_3d_multicast", site), site);
}
void copy_bytes_multicast(SharedAddress to, const void* from, uint32_t bytes, SharedAddress barrier, uint16_t blocks,
                          Site site) {
  if (Block* block = begin("copy_bytes_multicast", site))
    block->copies().load_bytes(to, from, bytes, barrier, blocks_of(*block, blocks, "copy_bytes_multicast", site), site);
}
void store_box_2d(const TensorMap& map, int x, int y, SharedAddress from, Site site) {
  const int at[] = {x, y};
  if (Block* block = begin("store_box_2d", site)) block->copies().store_box(map.spec, at, from, site);
}
void store_commit(Site site) {
  if (Block* block = begin("store_commit", site)) block->copies().commit();
}
void store_wait(Site site) {
  if (Block* block = begin("store_wait", site)) block->copies().wait(site);
}
void prefetch_map(const TensorMap&) {}

Words4 load_once(const void* from) {
  Words4 y;
  std::memcpy(&y, from, sizeof y);
  return y;
}
void store_once(void* to, uint32_t value) {
  std::memcpy(to, &value, sizeof value);
}
void raise_global(uint32_t* to, uint32_t value, Site site) {
  if (begin("raise_global", site)) *to = std::max(*to, value);
}
uint32_t fetch_add(uint32_t* counter, uint32_t value, Site site) {
  Block::current().begin("fetch_add", site);
  return std::exchange(*counter, *counter + value);
}
void add_release(uint32_t* counter, uint32_t value, Site site) {
  if (begin("add_release", site)) *counter += value;
}
void wait_at_least(const uint32_t* counter, uint32_t value, Site site) {
  if (Block* block = begin("wait_at_least", site)) block->wait_for_others(counter, value, site);
}
uint32_t load_shared_by_blocks(const uint32_t* from) {
  return *from;
}

void wgmma_fence(Site site) {
  if (Block* block = begin("wgmma_fence", site)) block->warpgroup().fence();
}
void wgmma_commit(Site site) {
  if (Block* block = begin("wgmma_commit", site)) block->warpgroup().commit();
}
void wgmma_wait_groups(int groups, Site site) {
  if (Block* block = begin("wgmma_wait", site)) block->warpgroup().wait(groups, site);
}
void wgmma_e4m3(float (&d)[32], uint64_t a, uint64_t b, bool accumulate, Site site) {
  deposit({Product::kE4m3, 64, accumulate, false, false, a, b}, d, nullptr, site);
}
void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b, bool accumulate, Site site) {
  deposit({Product::kE4m3, 128, accumulate, false, false, a, b}, d, nullptr, site);
}
void wgmma_e4m3(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate, Site site) {
  deposit({Product::kE4m3, 64, accumulate, true, false, 0, b}, d, a, site);
}
void wgmma_e4m3(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate, Site site) {
  deposit({Product::kE4m3, 128, accumulate, true, false, 0, b}, d, a, site);
}
void wgmma_16bit_issue(Element element, float* d, int columns, Major a_major, uint64_t a, Major b_major, uint64_t b,
                       bool accumulate, Site site) {
  deposit({of_16_bits(element), columns, accumulate, false, b_major == Major::kMn, a, b, a_major == Major::kMn}, d,
          nullptr, site);
}
void wgmma_16bit_issue(Element element, float* d, int columns, const uint32_t* a, Major b_major, uint64_t b,
                       bool accumulate, Site site) {
  deposit({of_16_bits(element), columns, accumulate, true, b_major == Major::kMn, 0, b}, d, a, site);
}

float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
float log2_approx(float x) {
  return std::log2(x);
}
float max_number(float a, float b) {
  return std::fmax(a, b);
}
float max_nan(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? NAN : std::fmax(a, b);
}
float fused_multiply_add(float a, float b, float c) {
  return std::fma(a, b, c);
}
float multiply(float a, float b) {
  return a * b;
}
float add(float a, float b) {
  return a + b;
}
float subtract(float a, float b) {
  return a - b;
}
float square_root(float x) {
  return std::sqrt(x);
}
float reciprocal_below(float x) {
  const float y = 1.0f / x;
  return std::fma(y, x, -1.0f) > 0.0f ? std::nextafter(y, 0.0f) : y;
}
float magnitude(float x) {
  return std::fabs(x);
}
uint32_t max_u16x2(uint32_t a, uint32_t b) {
  return std::max(a & 0xffff, b & 0xffff) | std::max(a >> 16, b >> 16) << 16;
}
float ceiling(float x) {
  return std::ceil(x);
}
float divide(float a, float b) {
  return a / b;
}
uint32_t opaque(uint32_t x) {
  return x;
}
uint8_t* opaque(uint8_t* x) {
  return x;
}
uint32_t bits_of(float x) {
  return std::bit_cast<uint32_t>(x);
}
float float_of(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
uint32_t e4m3x2(float low, float high) {
  return numeric::e4m3_from_f32(low) | static_cast<uint32_t>(numeric::e4m3_from_f32(high)) << 8;
}
void values_of_e4m3x2(uint32_t codes, float& low, float& high) {
  low = numeric::f32_from_e4m3(static_cast<uint8_t>(codes));
  high = numeric::f32_from_e4m3(static_cast<uint8_t>(codes >> 8));
}
uint32_t bf16x2(float low, float high) {
  return numeric::bf16_from_f32(low) | static_cast<uint32_t>(numeric::bf16_from_f32(high)) << 16;
}
float value_of_f16(uint32_t bits) {
  return numeric::f32_from_f16(static_cast<uint16_t>(bits));
}
uint32_t f16x2(float low, float high) {
  return numeric::f16_from_f32(low) | static_cast<uint32_t>(numeric::f16_from_f32(high)) << 16;
}

}  // namespace fpsa::kernel::cuda::ptx::inline emulated
