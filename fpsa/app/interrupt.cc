#include "fpsa/app/interrupt.h"

#include <unistd.h>
#include <csignal>

namespace fpsa::app {
namespace {

// sig_atomic_t: the only type a handler may touch portably.
volatile std::sig_atomic_t received_signal = 0;
volatile std::sig_atomic_t writers = 0;

extern "C" void remember_signal(int signal) {
  if (received_signal != 0 && writers == 0) _exit(128 + signal);
  received_signal = signal;
}

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action = {};
  action.sa_handler = remember_signal;
  sigemptyset(&action.sa_mask);
  // SA_RESTART: a read or write in a library is resumed, not failed with EINTR.
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void throw_if_interrupted() {
  if (received_signal != 0) throw Interrupted(received_signal);
}

WritingFiles::WritingFiles() {
  writers = writers + 1;
}

WritingFiles::~WritingFiles() {
  writers = writers - 1;
}

}  // namespace fpsa::app
