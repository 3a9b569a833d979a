#include "fpsa/app/bench_peer.h"

#include <cerrno>
#include <csignal>
#include <cstring>

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fpsa/app/interrupt.h"
#include "fpsa/base/check.h"
#include "fpsa/io/json.h"

namespace fpsa::app::bench {
namespace {

constexpr char kPreload[] = "LD_PRELOAD=";

// The environment, with the library in front of what is preloaded anyway.
std::vector<std::string> child_environment(const std::filesystem::path& preload) {
  std::vector<std::string> variables;
  std::string libraries = preload.string();
  for (char** at = environ; *at; ++at) {
    const std::string variable = *at;
    if (preload.empty() || !variable.starts_with(kPreload))
      variables.push_back(variable);
    else
      libraries += ':' + variable.substr(sizeof kPreload - 1);
  }
  if (!preload.empty()) variables.push_back(kPreload + libraries);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (auto& text : strings)
    result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

std::filesystem::path vendor_library() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto path = program.parent_path().parent_path() / "lib" / "libfpsa_mkl_vendor.so";
  return !error && std::filesystem::exists(path, error) ? path : std::filesystem::path();
}

Peer::Peer(std::string name, const std::filesystem::path& preload, int threads) : name_(std::move(name)) {
  int ends[2];
  FPSA_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, name_,
             ": cannot make a socket pair: ", std::strerror(errno));
  socket_ = ends[0];
  std::vector<std::string> arguments = {"fpsa", "bench-peer", "--threads", std::to_string(threads)};
  auto variables = child_environment(preload);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  const int status = posix_spawn(&process_, "/proc/self/exe", &actions, nullptr, pointers(arguments).data(),
                                 pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (status != 0) {
    process_ = -1;
    close(socket_);
    throw Error(join(name_, ": cannot start its process: ", std::strerror(status)));
  }
  try {
    const bool took_effect = read_line().at("override");
    FPSA_CHECK(took_effect == !preload.empty(), name_, ": expected MKL's vendor check to be ",
               preload.empty() ? "torch's own" : join("overridden by ", preload.string()), ", got the opposite",
               preload.empty() ? "; unset LD_PRELOAD" : "");
  } catch (...) {
    close(socket_);
    if (process_ > 0) {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
    throw;
  }
}

Peer::~Peer() {
  close(socket_);
  if (process_ <= 0) return;
  kill(process_, SIGTERM);  // it may be in the middle of a long call
  waitpid(process_, nullptr, 0);
}

void Peer::fail_with_status() {
  throw_if_interrupted();  // Ctrl-C reaches the child too
  int status = 0;
  const bool known = waitpid(process_, &status, 0) == process_;
  process_ = -1;
  ended_ =
      known && WIFSIGNALED(status)
          ? join(name_, ": its process was ended by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")")
          : join(name_, ": its process ended", known ? join(" with exit code ", WEXITSTATUS(status)) : "",
                 " before it answered");
  throw Error(ended_);
}

nlohmann::json Peer::read_line() {
  size_t end;
  while ((end = pending_.find('\n')) == std::string::npos) {
    char buffer[4096];
    const ssize_t count = recv(socket_, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail_with_status();
    pending_.append(buffer, static_cast<size_t>(count));
  }
  const std::string line = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  auto answer = io::parse_json(line, name_);
  if (const auto error = answer.find("error"); error != answer.end())
    throw Error(join(name_, ": ", error->get<std::string>()));
  return answer;
}

nlohmann::json Peer::ask(const nlohmann::json& request) {
  FPSA_CHECK(process_ > 0, ended_);
  const std::string line = request.dump() + '\n';
  for (size_t sent = 0; sent < line.size();) {
    const ssize_t count = send(socket_, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail_with_status();
    sent += static_cast<size_t>(count);
  }
  return read_line();
}

int Peer::prepare(const PeerCall& call, const std::vector<int64_t>& rows, at::Tensor* out) {
  const auto& shape = call.shape;
  const auto answer = ask({{"prepare",
                            {{"grid", {shape.grid.t, shape.grid.y, shape.grid.x}},
                             {"heads", shape.heads},
                             {"dim", shape.dim},
                             {"heads_first", call.heads_first},
                             {"backward", call.backward},
                             {"rows", rows}}}});
  if (out) {
    const auto values = answer.at("out").get<std::vector<double>>();
    FPSA_CHECK(values.size() == rows.size() * static_cast<size_t>(shape.dim), name_, ": expected ", rows.size(),
               " rows of ", shape.dim, " channels, got ", values.size(), " numbers");
    *out = at::tensor(at::ArrayRef<double>(values), at::kDouble).view({-1, shape.dim});
  }
  return answer.at("id");
}

Sample Peer::sample(int id, int repeats) {
  const auto answer = ask({{"sample", id}, {"repeats", repeats}});
  return {answer.at("seconds"), answer.at("others"), answer.at("cpu")};
}

void Peer::release() {
  try {
    ask({{"release", true}});
  } catch (const Error&) {
    // ended_ says it from now on.
  }
}

}  // namespace fpsa::app::bench
