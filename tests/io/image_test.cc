#include "fpsa/io/image.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/io/font.h"
#include "tests/io/scratch.h"

namespace fpsa::io {
namespace {

using testing::count_files;
using testing::error_of;
using testing::read_raw;
using testing::ScratchFolder;
using testing::write_raw;

Image noise(int64_t height, int64_t width) {
  Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  uint32_t state = 1;
  for (uint8_t& value : image.rgb)
    value = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  return image;
}

TEST(Png, RoundTripIsExact) {
  ScratchFolder scratch;
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1}, {7, 5}, {64, 33}};
  for (const auto& [height, width] : sizes) {
    const Image image = noise(height, width);
    write_png(scratch / "a.png", image);
    const Image back = read_png(scratch / "a.png");
    EXPECT_EQ(back.height, height);
    EXPECT_EQ(back.width, width);
    EXPECT_EQ(back.rgb, image.rgb);
  }
  EXPECT_EQ(count_files(scratch.path()), 1u);
}

TEST(Png, BadImagesAndDamagedFilesAreErrors) {
  ScratchFolder scratch;
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { write_png(scratch / "a.png", Image{}); }), "1 to 2^28 pixels");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { write_png(scratch / "a.png", Image{2, 2, {}}); }), "expected 12 bytes");
  FPSA_EXPECT_CONTAINS(error_of<Error>([&] { write_png("/dev/full", noise(4, 4)); }), "No space left");
  EXPECT_EQ(count_files(scratch.path()), 0u);

  write_png(scratch / "a.png", noise(16, 16));
  const std::string whole = read_raw(scratch / "a.png");
  for (size_t size : {size_t{0}, size_t{7}, size_t{30}, whole.size() / 2})
    FPSA_EXPECT_CONTAINS(error_of<Error>([&] { read_png(write_raw(scratch / "cut.png", whole.substr(0, size))); }),
                         "as a PNG");
}

TEST(ContactSheet, ShowsFirstMiddleAndLastFrameOfEachRow) {
  Video video{5, 6, 8, 16, {}};
  for (int64_t t = 0; t < 5; ++t)
    video.rgb.insert(video.rgb.end(), static_cast<size_t>(video.frame_bytes()), static_cast<uint8_t>(10 + t));
  const Image sheet = contact_sheet({{"dense", &video}, {"fps", &video}}, 3);
  std::vector<uint8_t> seen;
  for (int64_t y = 1; y < sheet.height; ++y)
    for (int64_t x = 1; x < sheet.width; ++x) {
      const auto at = [&](int64_t row, int64_t column) { return sheet.rgb[(row * sheet.width + column) * 3]; };
      const bool corner = at(y, x) >= 10 && at(y, x) < 15 && at(y - 1, x) == 255 && at(y, x - 1) == 255;
      if (corner) seen.push_back(at(y, x));
    }
  EXPECT_EQ(seen, (std::vector<uint8_t>{10, 12, 14, 10, 12, 14}));
}

TEST(ContactSheet, EmptyRequestsAreErrors) {
  const Video empty;
  EXPECT_THROW(contact_sheet({}, 3), Error);
  EXPECT_THROW(contact_sheet({{"a", &empty}}, 3), Error);
  const Video one{1, 2, 2, 16, std::vector<uint8_t>(12)};
  EXPECT_THROW(contact_sheet({{"a", &one}}, 0), Error);
  EXPECT_NO_THROW(contact_sheet({{"a label far longer than the picture", &one}}, 1));
}

TEST(Font, LettersDifferAndClippingIsSafe) {
  const auto drawn = [](std::string_view text) {
    Image image{kGlyphHeight, 3 * kGlyphAdvance, {}};
    image.rgb.assign(static_cast<size_t>(image.height * image.width * 3), 255);
    draw_text(image, 0, 0, text);
    return image.rgb;
  };
  EXPECT_EQ(drawn("a"), drawn("A"));
  EXPECT_EQ(drawn("圆A"), drawn("?A"));
  const std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;-_/()%+='!?";
  for (size_t i = 0; i < letters.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      EXPECT_NE(drawn(letters.substr(i, 1)), drawn(letters.substr(j, 1))) << letters[i] << letters[j];
  drawn("longer than the image");
}

}  // namespace
}  // namespace fpsa::io
