// One attention of `fpsa bench train`, in a process of its own: what it keeps in memory is then its own too.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

namespace fpsa::app::bench {

/// One training step, forward and backward of all its micro-batches.
struct StepTime {
  double forward = 0, backward = 0, cpu = 0, others = 0;  // seconds; `others` as in OthersWatch
  double density = 1;                                     // mean over the micro-batches
  double total() const { return forward + backward; }
};

/// A forked process that makes something and then takes steps when asked.
///   Requires  that this process has one thread when the arm is made: a fork has no others
///   Threads   one object belongs to one thread
///   Errors    fpsa::Error with the message of what failed in the process, or with how that ended; Interrupted when a
///             signal came meanwhile
class ArmProcess {
 public:
  using Step = std::function<StepTime(int64_t index)>;

  /// Returns when `make` has, in the new process; what it returns takes the steps there.
  ArmProcess(std::string name, const std::function<Step()>& make);
  /// Ends the process, in the middle of a step if need be.
  ~ArmProcess();
  ArmProcess(const ArmProcess&) = delete;
  ArmProcess& operator=(const ArmProcess&) = delete;

  const std::string& name() const { return name_; }
  StepTime step(int64_t index);
  /// The largest resident size of the process up to the last answer, loading included.
  int64_t peak_resident_bytes() const { return peak_bytes_; }

 private:
  StepTime answer();
  void end();

  std::string name_;
  int socket_ = -1;
  pid_t process_ = -1;
  int64_t peak_bytes_ = 0;
};

}  // namespace fpsa::app::bench
