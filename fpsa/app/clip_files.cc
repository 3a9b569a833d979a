#include "fpsa/app/clip_files.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <vector>

#include "fpsa/app/interrupt.h"
#include "fpsa/base/check.h"
#include "fpsa/io/image.h"

namespace fpsa::app {
namespace {

namespace fs = std::filesystem;

std::string frame_name(int64_t index) {
  char name[32];
  std::snprintf(name, sizeof name, "frame-%04lld.png", static_cast<long long>(index));
  return name;
}

io::Video read_frames(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".png") files.push_back(entry.path());
  FPSA_CHECK(!files.empty(), folder.string(),
             ": expected a video or a folder of .png frames, got a folder without any");
  std::sort(files.begin(), files.end());
  io::Video video;
  for (const auto& file : files) {
    const auto image = io::read_png(file);
    if (video.frames == 0) {
      video.height = image.height;
      video.width = image.width;
    }
    FPSA_CHECK(image.height == video.height && image.width == video.width, file.string(), ": expected ", video.width,
               "x", video.height, " as the frames before it, got ", image.width, "x", image.height);
    video.rgb.insert(video.rgb.end(), image.rgb.begin(), image.rgb.end());
    ++video.frames;
  }
  return video;
}

}  // namespace

io::Video read_clip(const fs::path& path) {
  FPSA_CHECK(fs::exists(path), path.string(), ": expected a video or a folder of .png frames, got no such path");
  return fs::is_directory(path) ? read_frames(path) : io::read_video(path);
}

void check_no_other_frames(const std::string& flag, const fs::path& folder, int64_t frames) {
  if (!fs::is_directory(folder)) return;
  std::set<std::string> replaced, others;
  for (int64_t i = 0; i < frames; ++i)
    replaced.insert(frame_name(i));
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = entry.path().filename().string();
    if (name.starts_with("frame-") && name.ends_with(".png") && !replaced.contains(name)) others.insert(name);
  }
  FPSA_CHECK(others.empty(), flag, ": expected a folder without frames beyond the ", frames, " of this clip, got ",
             others.size(), " in ", folder.string(), ", the first is ", *others.begin(),
             "; remove them or choose another folder");
}

void write_frames(const fs::path& folder, const io::Video& video) {
  std::vector<fs::path> written;
  try {
    for (int64_t i = 0; i < video.frames; ++i) {
      throw_if_interrupted();
      const auto file = folder / frame_name(i);
      const auto frame = video.frame(i);
      io::write_png(file, {video.height, video.width, {frame.begin(), frame.end()}});
      written.push_back(file);
    }
  } catch (...) {
    std::error_code ignored;
    for (const auto& file : written)
      fs::remove(file, ignored);
    throw;
  }
}

}  // namespace fpsa::app
