// The one-way dependency between rooms (ARCHITECTURE.md), read from the include lines, and the rules that go with
// it: where torch, CUDA and other libraries may appear, and that library code neither prints nor ends the process.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace fpsa {
namespace {

namespace fs = std::filesystem;

// What each room may include besides itself. kernel's three folders are rooms of their own.
const std::map<std::string, std::set<std::string>>& allowed_rooms() {
  static const std::set<std::string> core = {"base", "numeric", "pattern"};
  static const std::set<std::string> contract = {"base", "numeric", "pattern", "kernel"};
  static const std::set<std::string> ops = {"base", "numeric", "pattern", "kernel", "plan", "ops", "kernel/cuda"};
  static const std::set<std::string> nn = {"base", "numeric", "pattern", "kernel", "plan", "ops", "nn", "io"};
  static const auto with = [](std::set<std::string> rooms, std::initializer_list<const char*> more) {
    rooms.insert(more.begin(), more.end());
    return rooms;
  };
  static const std::map<std::string, std::set<std::string>> table = {
      {"base", {}},
      {"numeric", {"base"}},
      {"pattern", {"base"}},
      {"schedule", {"base", "pattern"}},
      {"kernel", with(core, {"kernel/reference", "kernel/cpu", "kernel/cuda"})},
      {"kernel/reference", contract},
      {"kernel/cpu", contract},
      {"kernel/cuda", contract},
      {"plan", contract},
      {"capi", with(contract, {"plan"})},
      {"io", {"base", "numeric"}},
      {"ops", ops},
      {"bench", ops},
      {"nn", with(ops, {"io"})},
      {"models", nn},
      {"accel", with(nn, {"schedule"})},
      {"diffusion", nn},
      {"train", with(nn, {"schedule", "models", "accel", "diffusion"})},
      // app reports the machine, so it may ask the kernel rooms for the ISA and the device.
      {"app", with(nn, {"schedule", "models", "accel", "diffusion", "train", "bench", "kernel/cpu", "kernel/cuda"})},
  };
  return table;
}

// "fpsa/kernel/cpu/x.cc" -> "kernel/cpu", "fpsa/models/wan/x.cc" -> "models".
std::string room_of(const std::string& path) {
  static const std::regex pattern("^fpsa/(kernel/(?:reference|cpu|cuda)|[a-z]+)/.*");
  std::smatch match;
  return std::regex_match(path, match, pattern) ? match[1].str() : "";
}

struct Include {
  std::string target;
  bool quoted;
};

std::string without_comments(std::string text) {
  static const std::regex block("/\\*[^*]*\\*+(?:[^/*][^*]*\\*+)*/"), line("//[^\n]*");
  // Lines first: "/*" in a line comment opens nothing.
  return std::regex_replace(std::regex_replace(text, line, ""), block, "");
}

std::vector<Include> includes(const std::string& text) {
  static const std::regex pattern("(?:^|\n)[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"]");
  std::vector<Include> found;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), pattern); it != std::sregex_iterator(); ++it) {
    found.push_back({(*it)[2].str(), (*it)[1].str() == "\""});
  }
  return found;
}

struct LibraryRule {
  const char* include;  // regular expression on the include's target
  const char* files;    // regular expression on the files that may have it
  const char* what;
};

constexpr char kTorchRooms[] = "fpsa/(ops|bench|nn|models|accel|diffusion|train|app)/.*";
constexpr LibraryRule kLibraryRules[] = {
    {"torch/torch\\.h", "", "torch/torch.h is never included: it costs 14 s per file"},
    {"(ATen|c10|torch|caffe2)/.*", kTorchRooms, "torch appears first in ops"},
    {"(cuda|cublas|cudnn|cutlass|cute)[_a-zA-Z]*(/.*|\\.h|\\.hpp)", "fpsa/(kernel/cuda/.*|ops/cuda_.*)",
     "CUDA headers stay in kernel/cuda and ops/cuda_*"},
    {"toml\\+\\+/.*", "fpsa/(schedule|train|app)/.*\\.cc", "toml++ stays in the sources that read settings"},
    {"CLI/.*", "fpsa/app/.*", "the command line library stays in app"},
    {"lib(av|sw)[a-z]+/.*", "fpsa/io/.*", "FFmpeg stays in io"},
    {"(tests|bench|tools|python)/.*", "", "tests, bench and tools are leaves"},
};

void check_library(const std::string& path, const std::string& target, std::vector<std::string>& problems) {
  for (const LibraryRule& rule : kLibraryRules) {
    if (!std::regex_match(target, std::regex(rule.include))) continue;
    if (!std::regex_match(path, std::regex(rule.files))) problems.push_back(path + ": <" + target + ">: " + rule.what);
    return;
  }
}

// Every broken rule of one file. `text` is its content.
std::vector<std::string> problems_of(const std::string& path, const std::string& raw) {
  std::vector<std::string> problems;
  const std::string text = without_comments(raw), room = room_of(path);
  const auto rules = allowed_rooms().find(room);
  if (rules == allowed_rooms().end()) return {path + ": no such room in the table of this test"};
  for (const Include& include : includes(text)) {
    if (include.target.rfind("fpsa/", 0) != 0) {
      check_library(path, include.target, problems);
      continue;
    }
    const std::string other = room_of(include.target);
    if (other != room && !rules->second.contains(other)) {
      problems.push_back(path + ": room " + room + " may not include " + include.target);
    }
  }
  static const std::regex ends("std::(cout|cerr|clog)\\b|(^|[^\\w.>])(printf|fprintf|puts|abort|exit|_exit)[ ]*\\(");
  std::smatch match;
  if (room != "app" && std::regex_search(text, match, ends)) {
    problems.push_back(path + ": '" + match.str() + "': library code never prints, aborts or exits");
  }
  return problems;
}

// Files compiled for one instruction set, and the bodies that are included into them.
bool is_isa_file(const std::string& path) {
  return std::regex_match(path, std::regex("fpsa/kernel/cpu/.*(_avx|_amx|_sse|_neon).*|fpsa/kernel/cpu/.*-inl\\.h"));
}

// An ordinary library header compiled with -mavx512f may leave a weak symbol of that code, which the linker can
// then use on machines without it. So everything an ISA file reaches is one of these.
bool is_safe_for_isa(const std::string& system_header) {
  static const std::set<std::string> safe = {"immintrin.h", "cstdint", "cstddef"};
  return safe.contains(system_header);
}

std::map<std::string, std::string> sources() {
  std::map<std::string, std::string> files;
  static const std::set<std::string> suffixes = {".h", ".cc", ".cu", ".cuh"};
  for (const auto& entry : fs::recursive_directory_iterator("fpsa")) {
    if (!entry.is_regular_file() || !suffixes.contains(entry.path().extension().string())) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    files.emplace(entry.path().generic_string(), text.str());
  }
  return files;
}

TEST(Layering, IncludesFollowTheOneWayDependency) {
  const auto files = sources();
  ASSERT_GE(files.size(), 20u) << "run from the source root";
  for (const auto& [path, text] : files) {
    for (const std::string& problem : problems_of(path, text))
      ADD_FAILURE() << problem;
  }
}

TEST(Layering, IncludedFilesExist) {
  const auto files = sources();
  for (const auto& [path, text] : files) {
    for (const Include& include : includes(without_comments(text))) {
      if (include.target.rfind("fpsa/", 0) == 0) {
        EXPECT_TRUE(fs::exists(include.target)) << path << " includes " << include.target;
      } else if (include.quoted) {
        ADD_FAILURE() << path << ": \"" << include.target << "\": ours start with fpsa/, others use <>";
      }
    }
  }
}

TEST(Layering, IsaFilesReachOnlyTheirContractAndIntrinsics) {
  const auto files = sources();
  for (const auto& [path, unused] : files) {
    if (!is_isa_file(path)) continue;
    std::set<std::string> seen;
    std::vector<std::string> open = {path};
    while (!open.empty()) {
      const std::string file = open.back();
      open.pop_back();
      if (!seen.insert(file).second || !files.contains(file)) continue;
      for (const Include& include : includes(without_comments(files.at(file)))) {
        if (include.target.rfind("fpsa/", 0) == 0) {
          open.push_back(include.target);
        } else {
          EXPECT_TRUE(is_safe_for_isa(include.target)) << path << " reaches <" << include.target << "> by " << file;
        }
      }
    }
  }
}

TEST(Layering, TheCheckItselfSeesEachKindOfViolation) {
  const auto count = [](const char* path, const char* text) { return problems_of(path, text).size(); };
  EXPECT_EQ(count("fpsa/pattern/a.cc", "#include \"fpsa/base/check.h\"\n#include <vector>\n"), 0u);
  EXPECT_EQ(count("fpsa/pattern/a.cc", "#include \"fpsa/numeric/e4m3.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/schedule/a.cc", "#include \"fpsa/kernel/table.h\"\n"), 1u) << "siblings";
  EXPECT_EQ(count("fpsa/accel/a.cc", "#include \"fpsa/models/wan/dit.h\"\n"), 1u) << "siblings";
  EXPECT_EQ(count("fpsa/train/a.cc", "#include \"fpsa/models/wan/dit.h\"\n"), 0u);
  EXPECT_EQ(count("fpsa/train/a.cc", "#include \"fpsa/app/main.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/kernel/cpu/a.cc", "#include \"fpsa/kernel/reference/a.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/kernel/a.cc", "#include \"fpsa/kernel/reference/a.h\"\n"), 0u) << "the table sees all";
  EXPECT_EQ(count("fpsa/kernel/a.cc", "#include \"fpsa/plan/run.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/plan/a.cc", "#include <ATen/ATen.h>\n"), 1u) << "plan knows no torch";
  EXPECT_EQ(count("fpsa/capi/a.cc", "#include \"fpsa/ops/plan.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/plan/a.cc", "#include \"fpsa/kernel/cpu/isa.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/io/a.cc", "\n  # include <ATen/ATen.h>\n"), 1u);
  EXPECT_EQ(count("fpsa/nn/a.cc", "#include <ATen/ATen.h>\n"), 0u);
  EXPECT_EQ(count("fpsa/nn/a.cc", "#include <torch/torch.h>\n"), 1u);
  EXPECT_EQ(count("fpsa/ops/a.cc", "#include <cuda_runtime.h>\n"), 1u);
  EXPECT_EQ(count("fpsa/ops/cuda_attention.cc", "#include <cuda_runtime.h>\n"), 0u);
  EXPECT_EQ(count("fpsa/schedule/a.h", "#include <toml++/toml.h>\n"), 1u);
  EXPECT_EQ(count("fpsa/io/a.cc", "#include \"tests/tolerance.h\"\n"), 1u);
  EXPECT_EQ(count("fpsa/new_room/a.cc", ""), 1u);
  EXPECT_EQ(count("fpsa/io/a.cc", "// #include <ATen/ATen.h>\n/* std::cout << 1; */ std::snprintf(b, 1, \"\");"), 0u);
  EXPECT_EQ(count("fpsa/io/a.cc", "void f() { std::cerr << 1; }"), 1u);
  EXPECT_EQ(count("fpsa/io/a.cc", "void f() { std::abort(); }"), 1u);
  EXPECT_EQ(count("fpsa/io/a.cc", "void f() { app.exit(1); }"), 0u) << "a member of that name";
  EXPECT_EQ(count("fpsa/app/a.cc", "void f() { std::printf(\"x\"); }"), 0u);
}

}  // namespace
}  // namespace fpsa
