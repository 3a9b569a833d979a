#include "fpsa/app/bench_train_arm.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "fpsa/app/failure.h"
#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/base/check.h"

namespace fpsa::app::bench {
namespace {

// What comes back from the process, as bytes: both ends are the same program.
struct Answer {
  StepTime time;
  int64_t peak_bytes = 0;
  char error[2048] = "";  // empty: none
};

// Sends or receives exactly `size` bytes; false at the end of the other process. recv is resumed after a signal, poll
// is not: it is where a signal is noticed.
bool receive(int socket, void* data, size_t size) {
  for (size_t done = 0; done < size;) {
    pollfd ready{socket, POLLIN, 0};
    if (poll(&ready, 1, -1) < 0) {
      throw_if_interrupted();
      continue;
    }
    const ssize_t count = recv(socket, static_cast<char*>(data) + done, size - done, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

bool transmit(int socket, const void* data, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t count = send(socket, static_cast<const char*>(data) + done, size - done, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

template <class Function>
Answer answer_of(const Function& run) {
  Answer answer;
  try {
    answer.time = run();
  } catch (const std::exception& error) {
    const std::string text = message_of(error);
    std::memcpy(answer.error, text.data(), std::min(text.size(), sizeof answer.error - 1));
    if (text.empty()) answer.error[0] = '?';
  }
  answer.peak_bytes = peak_resident_bytes();
  return answer;
}

void serve(int socket, const std::function<ArmProcess::Step()>& make) {
  ArmProcess::Step step;
  const auto made = answer_of([&] {
    step = make();
    std::cout << std::flush;
    return StepTime();
  });
  if (!transmit(socket, &made, sizeof made) || !step) return;
  for (int64_t index; receive(socket, &index, sizeof index);) {
    const auto answer = answer_of([&] { return step(index); });
    if (!transmit(socket, &answer, sizeof answer)) return;
  }
}

}  // namespace

ArmProcess::ArmProcess(std::string name, const std::function<Step()>& make) : name_(std::move(name)) {
  int ends[2];
  FPSA_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, name_,
             ": cannot make a socket pair: ", std::strerror(errno));
  std::cout << std::flush;  // or both processes print what waits
  std::fflush(nullptr);
  process_ = fork();
  if (process_ == 0) {
    close(ends[0]);
    try {
      serve(ends[1], make);
    } catch (...) {  // a signal; the parent got it too
    }
    _exit(0);  // what the parent will clean up is the parent's
  }
  close(ends[1]);
  socket_ = ends[0];
  try {
    FPSA_CHECK(process_ > 0, name_, ": cannot start its process: ", std::strerror(errno));
    answer();
  } catch (...) {
    end();
    throw;
  }
}

ArmProcess::~ArmProcess() {
  end();
}

void ArmProcess::end() {
  close(socket_);
  if (process_ <= 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
}

StepTime ArmProcess::step(int64_t index) {
  transmit(socket_, &index, sizeof index);  // if it has ended, so does the answer
  return answer();
}

StepTime ArmProcess::answer() {
  Answer got;
  if (!receive(socket_, &got, sizeof got)) {
    throw_if_interrupted();
    int status = 0;
    const bool known = waitpid(process_, &status, 0) == process_;
    process_ = -1;
    throw Error(join(name_, ": its process ended before it answered",
                     known && WIFSIGNALED(status)
                         ? join(", by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)),
                                "); if memory ran out, smaller batches need less")
                         : ""));
  }
  throw_if_interrupted();
  FPSA_CHECK(got.error[0] == '\0', name_, ": ", got.error);
  peak_bytes_ = got.peak_bytes;
  return got.time;
}

}  // namespace fpsa::app::bench
