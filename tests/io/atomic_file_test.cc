#include "fpsa/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "fpsa/base/check.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::count_files;
using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

TEST(AtomicFile, ReplacesTheTargetOnlyAtCommit) {
  ScratchFolder scratch;
  write_raw(scratch / "a", "old");
  AtomicFile file(scratch / "a");
  file.write("new content", 11);
  EXPECT_EQ(read_raw(scratch / "a"), "old");
  file.commit();
  EXPECT_EQ(read_raw(scratch / "a"), "new content");
  EXPECT_EQ(count_files(scratch.path()), 1u);
}

TEST(AtomicFile, WithoutCommitNothingRemains) {
  ScratchFolder scratch;
  {
    AtomicFile file(scratch / "a");
    file.write("half", 4);
    EXPECT_EQ(count_files(scratch.path()), 1u);
  }
  EXPECT_EQ(count_files(scratch.path()), 0u);
}

TEST(AtomicFile, SeekOverwritesInPlace) {
  ScratchFolder scratch;
  AtomicFile file(scratch / "a");
  file.write("abcdef", 6);
  file.seek(2);
  file.write("XY", 2);
  EXPECT_EQ(file.position_bytes(), 4u);
  file.commit();
  EXPECT_EQ(read_raw(scratch / "a"), "abXYef");
}

TEST(AtomicFile, FollowsASymbolicLink) {
  ScratchFolder scratch;
  std::filesystem::create_directories(scratch / "real");
  std::filesystem::create_symlink("real/target", scratch / "link");
  write_file(scratch / "link", "1");
  EXPECT_TRUE(std::filesystem::is_symlink(scratch / "link"));
  EXPECT_EQ(read_raw(scratch / "real/target"), "1");

  std::filesystem::create_symlink("loop", scratch / "loop");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { write_file(scratch / "loop", "1"); }), "too many symbolic links");
}

TEST(AtomicFile, NewFilesObeyTheUmask) {
  ScratchFolder scratch;
  const mode_t saved = ::umask(027);
  write_file(scratch / "a", "1");
  ::umask(saved);
  struct stat status {};
  ASSERT_EQ(::stat((scratch / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, UnwritableTargetsAreNamedWithCauseAndRemedy) {
  ScratchFolder scratch;
  const auto message = [&](const std::filesystem::path& path) {
    return error_of<Error>([&] { write_file(path, "1"); });
  };
  FPSA_EXPECT_CONTAINS(message(scratch / "no/such/folder"), "create the folder first");
  FPSA_EXPECT_CONTAINS(message(scratch.path()), "received a folder");
  FPSA_EXPECT_CONTAINS(message(""), "expected the path of a file");
  FPSA_EXPECT_CONTAINS(message("/dev/full"), "No space left on device");
  FPSA_EXPECT_CONTAINS(message("/proc/self/none"), "cannot create");
}

TEST(AtomicFile, AReadOnlyFolderIsRefused) {
  ScratchFolder scratch;
  std::filesystem::create_directories(scratch / "locked");
  std::filesystem::permissions(scratch / "locked", std::filesystem::perms(0555));
  // Root may write anywhere, so the case runs as the user 'nobody' there.
  const uid_t user = ::geteuid();
  if (user == 0) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const std::string message = error_of<Error>([&] { write_file(scratch / "locked/a", "1"); });
  if (user == 0) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  FPSA_EXPECT_CONTAINS(message, "you may write to");
}

TEST(AtomicFile, DevicesAreWrittenDirectly) {
  write_file("/dev/null", "gone");
}

}  // namespace
}  // namespace fpsa::io
