// Runs tile instructions on a machine that lacks them: the processor traps, and the emulation takes their place.
//
// So the very object code that machines with AMX run is tested everywhere: operand order, addresses, encodings.
#pragma once

namespace fpsa::kernel::amx_trap {

/// While one lives, SIGILL from a tile instruction on any thread runs it in the emulation. Other illegal instructions
/// end the process as ever. One at a time.
class Trap {
 public:
  Trap();
  ~Trap();
  Trap(const Trap&) = delete;
  Trap& operator=(const Trap&) = delete;
};

/// Tile instructions that were emulated so far.
long emulated();

}  // namespace fpsa::kernel::amx_trap
