#include "tests/kernel/amx_trap.h"

#include <ucontext.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "tests/kernel/amx_shim.h"

namespace fpsa::kernel::amx_trap {
namespace {

struct sigaction previous;
std::atomic<long> count = 0;

// General registers in the order of their encoding.
constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// A tile instruction: three-byte VEX prefix of the map 0F38, opcode, ModRM and what belongs to it.
class Instruction {
 public:
  explicit Instruction(const mcontext_t& context) : context_(context), at_(bytes(REG_RIP)) {
    valid_ = at_[0] == 0xc4 && (at_[1] & 0x1f) == 2;
    prefix_ = at_[2] & 3;
    opcode_ = at_[3];
    other_ = ~(at_[2] >> 3) & 15;
    mod_ = at_[4] >> 6;
    reg_ = at_[4] >> 3 & 7;
    rm_ = at_[4] & 7;
    length_ = 5;
    if (valid_ && mod_ != 3) decode_memory();
  }

  // Runs it in the emulation; false when it is none of those that kernels use.
  bool run() const {
    enum { kNone, k66, kF3, kF2 };
    const bool memory = mod_ != 3;
    if (!valid_) return false;
    switch (opcode_ << 8 | prefix_ << 1 | memory) {
      case 0x4900 | kNone << 1 | 1:
        amx_shim::configure(*static_cast<const TileConfig*>(address_));
        break;
      case 0x4900 | kNone << 1:
        amx_shim::release();
        break;
      case 0x4900 | kF2 << 1:
        amx_shim::zero(reg_);
        break;
      case 0x4b00 | kF2 << 1 | 1:
        amx_shim::load(reg_, address_, stride_);
        break;
      case 0x4b00 | kF3 << 1 | 1:
        amx_shim::store(reg_, address_, stride_);
        break;
      case 0x5c00 | kF3 << 1:
        amx_shim::dot_bf16(reg_, rm_, other_);
        break;
      case 0x5e00 | kF2 << 1:
        amx_shim::dot_s8s8(reg_, rm_, other_);
        break;
      case 0x5e00 | k66 << 1:
        amx_shim::dot_u8s8(reg_, rm_, other_);
        break;
      default:
        return false;
    }
    return true;
  }

  int length() const { return length_; }

 private:
  const uint8_t* bytes(int reg) const { return reinterpret_cast<const uint8_t*>(context_.gregs[reg]); }
  // Bit 6 and 5 of the second byte extend index and base, inverted.
  int64_t extended(int reg, int bit) const { return context_.gregs[kRegisters[reg | ((at_[1] >> bit & 1) ? 0 : 8)]]; }

  void decode_memory() {
    int64_t address = 0;
    bool displacement32 = mod_ == 2;
    if (rm_ == 4) {
      const int sib = at_[length_++], index = (sib >> 3 & 7) | ((at_[1] >> 6 & 1) ? 0 : 8);
      if (index != 4) stride_ = context_.gregs[kRegisters[index]] << (sib >> 6);
      if ((sib & 7) == 5 && mod_ == 0)
        displacement32 = true;
      else
        address = extended(sib & 7, 5);
    } else if (rm_ == 5 && mod_ == 0) {
      displacement32 = true;
      address = context_.gregs[REG_RIP] + length_ + 4;
    } else {
      address = extended(rm_, 5);
    }
    if (mod_ == 1) address += static_cast<int8_t>(at_[length_++]);
    if (displacement32) {
      int32_t displacement;
      std::memcpy(&displacement, at_ + length_, sizeof displacement);
      address += displacement;
      length_ += 4;
    }
    address_ = reinterpret_cast<void*>(address);
  }

  const mcontext_t& context_;
  const uint8_t* at_;
  bool valid_;
  int prefix_, opcode_, other_, mod_, reg_, rm_, length_;
  void* address_ = nullptr;
  int64_t stride_ = 0;
};

// Synchronous, and only between two instructions of a kernel, so it may do what a kernel may.
void handle(int, siginfo_t*, void* context) {
  mcontext_t& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  const Instruction instruction(machine);
  if (!instruction.run()) {
    sigaction(SIGILL, &previous, nullptr);  // on return the instruction traps again, now for good
    return;
  }
  machine.gregs[REG_RIP] += instruction.length();
  ++count;
}

}  // namespace

Trap::Trap() {
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, &previous);
}

Trap::~Trap() {
  sigaction(SIGILL, &previous, nullptr);
}

long emulated() {
  return count;
}

}  // namespace fpsa::kernel::amx_trap
