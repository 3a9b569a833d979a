#include "fpsa/train/contact_sheet.h"

#include <algorithm>

#include "fpsa/base/check.h"
#include "fpsa/io/image.h"

namespace fpsa::train {

void write_contact_sheet(const std::filesystem::path& path, const std::vector<SheetClip>& clips, int64_t columns,
                         int64_t side) {
  FPSA_CHECK(!clips.empty() && columns >= 1 && side >= 1, "a contact sheet needs at least one clip, column and pixel");
  std::vector<io::Video> videos;
  for (const auto& clip : clips) {
    const int64_t longest = std::max(clip.pixels.size(1), clip.pixels.size(2));
    const int64_t factor = (longest + side - 1) / side;
    const at::Tensor small = at::avg_pool2d(clip.pixels.permute({0, 3, 1, 2}).to(at::kFloat), {factor, factor})
                                 .permute({0, 2, 3, 1})
                                 .round()
                                 .to(at::kByte)
                                 .contiguous();
    io::Video video;
    video.frames = small.size(0), video.height = small.size(1), video.width = small.size(2);
    video.rgb.assign(small.const_data_ptr<uint8_t>(), small.const_data_ptr<uint8_t>() + small.numel());
    videos.push_back(std::move(video));
  }
  std::vector<io::SheetRow> rows;
  for (size_t i = 0; i < clips.size(); ++i)
    rows.push_back({clips[i].label, &videos[i]});
  io::write_png(path, io::contact_sheet(rows, columns));
}

}  // namespace fpsa::train
