#include "fpsa/io/append_file.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::error_of;
using testing::FileSizeLimit;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

TEST(AppendFile, AddsWholeLinesToWhatIsThere) {
  ScratchFolder scratch;
  AppendFile(scratch / "log").write_line("one");
  AppendFile again(scratch / "log");
  again.write_line("two");
  again.write_line("");
  EXPECT_EQ(read_raw(scratch / "log"), "one\ntwo\n\n");
}

TEST(AppendFile, CutsOffTheLineThatAKilledProcessLeftUnfinished) {
  ScratchFolder scratch;
  write_raw(scratch / "log", "one\ntw");
  AppendFile(scratch / "log").write_line("two");
  EXPECT_EQ(read_raw(scratch / "log"), "one\ntwo\n");
  write_raw(scratch / "log", "tw");
  AppendFile(scratch / "log").write_line("two");
  EXPECT_EQ(read_raw(scratch / "log"), "two\n");
}

TEST(AppendFile, ALineThatDoesNotFitOnTheDiskLeavesNoPartOfItself) {
  ScratchFolder scratch;
  AppendFile file(scratch / "log");
  file.write_line("one");
  const std::string message = [&] {
    const FileSizeLimit limit(64);
    return error_of<Error>([&] { file.write_line(std::string(100, 'x')); });
  }();
  FPSA_EXPECT_CONTAINS(message, (scratch / "log").string());
  FPSA_EXPECT_CONTAINS(message, "ulimit -f");
  EXPECT_EQ(read_raw(scratch / "log"), "one\n");
  file.write_line("two");
  EXPECT_EQ(read_raw(scratch / "log"), "one\ntwo\n");
}

TEST(AppendFile, SaysWhatIsWrongAndWhatToDo) {
  ScratchFolder scratch;
  const std::string full = error_of<Error>([] { AppendFile("/dev/full").write_line("x"); });
  FPSA_EXPECT_CONTAINS(full, "/dev/full");
  FPSA_EXPECT_CONTAINS(full, "No space left on device");
  FPSA_EXPECT_CONTAINS(full, "free some space");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { AppendFile(scratch / "none" / "log").write_line("x"); }),
                       "create the folder first");
}

}  // namespace
}  // namespace fpsa::io
