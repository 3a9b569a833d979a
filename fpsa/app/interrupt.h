// Ctrl-C: a flag that the work looks at between steps, attention calls and video frames.
//
// The first SIGINT or SIGTERM asks for an orderly end, so that temporary files are removed on the way out. A second
// one ends the process at once, except while a file is being written, which takes moments.
#pragma once

#include <exception>

namespace fpsa::app {

/// Thrown where the work notices the signal. The exit code is 128 + signal: 130 for Ctrl-C.
class Interrupted : public std::exception {
 public:
  explicit Interrupted(int signal) : signal_(signal) {}
  const char* what() const noexcept override { return "interrupted"; }
  int exit_code() const { return 128 + signal_; }

 private:
  int signal_;
};

/// Installs the handlers for SIGINT and SIGTERM; called once, by commands that run for long.
void install_interrupt_handlers();

/// Throws Interrupted once a signal has arrived.
void throw_if_interrupted();

/// While one lives, a second signal does not end the process: a half-written file is being completed or removed.
class WritingFiles {
 public:
  WritingFiles();
  ~WritingFiles();
  WritingFiles(const WritingFiles&) = delete;
  WritingFiles& operator=(const WritingFiles&) = delete;
};

}  // namespace fpsa::app
