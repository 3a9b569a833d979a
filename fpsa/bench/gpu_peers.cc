#include "fpsa/bench/gpu_peers.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fpsa/base/check.h"

extern char** environ;

namespace fpsa::bench {
namespace {

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

template <class Number>
std::optional<Number> number(const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

GpuCase case_of(const PeerProblem& problem, const std::string& peer) {
  GpuCase item;
  item.group = problem.group;
  item.name = peer;
  item.kernel = kPeerPrefix + peer;
  item.tokens = problem.tokens;
  item.heads = problem.heads;
  item.dim = problem.dim;
  // Two products of 2 L^2 D forward, five backward.
  item.operations = (problem.backward ? 10.0 : 4.0) * static_cast<double>(problem.tokens) *
                    static_cast<double>(problem.tokens) * static_cast<double>(problem.dim * problem.heads);
  return item;
}

GpuCase failed(const PeerProblem& problem, const std::string& peer, const std::string& why) {
  GpuCase item = case_of(problem, peer);
  item.failure = why;
  return item;
}

// Everything a child writes to its standard output, and how it ended.
std::string run_child(const std::vector<std::string>& arguments, std::string& ended) {
  int ends[2];
  FPSA_CHECK(pipe(ends) == 0, "peers: no pipe, ", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  std::vector<char*> argv;
  for (const std::string& argument : arguments)
    argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    ended = join(arguments[0], ": ", std::strerror(error));
    return {};
  }
  std::string output;
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) != 0;) {
    if (got > 0)
      output.append(buffer, static_cast<size_t>(got));
    else if (errno != EINTR)
      break;
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) ended = join(arguments[0], " ended by signal ", WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
    ended = join(arguments[0], " ended with exit code ", WEXITSTATUS(status), "; its message is above");
  return output;
}

}  // namespace

PeerResults parse_peers(std::string_view lines, const std::vector<PeerProblem>& problems) {
  PeerResults results;
  for (const std::string& line : split(lines, '\n')) {
    if (line.empty()) continue;
    const auto fields = split(line, '\t');
    if (fields[0] == "version" && fields.size() == 3) {
      const std::pair version(fields[1], fields[2]);
      if (std::find(results.versions.begin(), results.versions.end(), version) == results.versions.end())
        results.versions.push_back(version);
      continue;
    }
    const auto index = fields.size() > 1 ? number<size_t>(fields[1]) : std::nullopt;
    const bool known = index && *index < problems.size();
    if (fields[0] == "failure" && fields.size() == 4 && known) {
      results.cases.push_back(failed(problems[*index], fields[2], fields[3]));
      continue;
    }
    const auto seconds = fields.size() == 6 ? number<double>(fields[3]) : std::nullopt;
    const auto spread = fields.size() == 6 ? number<double>(fields[4]) : std::nullopt;
    const auto samples = fields.size() == 6 ? number<int>(fields[5]) : std::nullopt;
    if (fields[0] == "case" && known && seconds && *seconds > 0 && spread && samples) {
      GpuCase item = case_of(problems[*index], fields[2]);
      item.seconds = *seconds;
      item.spread = *spread;
      item.samples = *samples;
      results.cases.push_back(item);
      continue;
    }
    results.cases.push_back(failed({}, "peers", join("expected a line of the bench's own, got '", line, "'")));
  }
  return results;
}

PeerResults time_peers(const std::string& python, int device, const std::vector<PeerProblem>& problems, int samples) {
  std::vector<std::string> arguments = {python, "-c", std::string(peer_program()), std::to_string(device),
                                        std::to_string(samples)};
  for (const PeerProblem& problem : problems)
    arguments.push_back(join(problem.group, ':', problem.tokens, ':', problem.heads, ':', problem.dim, ':',
                             problem.backward ? 1 : 0));
  std::string ended;
  auto results = parse_peers(run_child(arguments, ended), problems);
  if (!ended.empty())
    for (const PeerProblem& problem : problems)
      results.cases.push_back(failed(problem, "peers", ended));
  return results;
}

}  // namespace fpsa::bench
