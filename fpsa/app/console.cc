#include "fpsa/app/console.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <iostream>

#include "fpsa/base/check.h"

namespace fpsa::app {
namespace {

// A stream does not tell why it failed; a pipe does tell that nobody reads it.
bool reader_is_gone(int descriptor) {
  pollfd state = {descriptor, POLLOUT, 0};
  return poll(&state, 1, 0) == 1 && (state.revents & (POLLERR | POLLHUP)) != 0;
}

}  // namespace

void prepare_console() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // so that a limit on file sizes is an error with a name, as a full disk is
  // open() returns the lowest free number, which is the one that was found closed.
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(descriptor, F_GETFD) == -1 && errno == EBADF && open("/dev/null", O_RDWR) != descriptor) return;
}

void finish_console() {
  std::cout.flush();
  FPSA_CHECK(std::cout.good() || reader_is_gone(STDOUT_FILENO), "standard output: expected to take all text, got an ",
             "error while writing; is the disk full?");
}

}  // namespace fpsa::app
