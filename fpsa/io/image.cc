#include "fpsa/io/image.h"

#include <png.h>

#include <algorithm>
#include <cstring>

#include "fpsa/base/check.h"
#include "fpsa/io/atomic_file.h"
#include "fpsa/io/font.h"
#include "fpsa/io/json.h"

namespace fpsa::io {
namespace {

constexpr int64_t kMaxPixels = int64_t{1} << 28;
constexpr int64_t kMargin = 4;  // pixels between the pictures of a contact sheet

// libpng's simplified interface reports through this struct and needs its release on every path.
struct PngImage {
  png_image value{};
  PngImage() { value.version = PNG_IMAGE_VERSION; }
  ~PngImage() { png_image_free(&value); }
};

void paste(Image& sheet, int64_t top, int64_t left, const Video& video, int64_t frame) {
  const uint8_t* source = video.frame(frame).data();
  for (int64_t y = 0; y < video.height; ++y)
    std::memcpy(&sheet.rgb[static_cast<size_t>(((top + y) * sheet.width + left) * 3)], source + y * video.width * 3,
                static_cast<size_t>(video.width * 3));
}

}  // namespace

void write_png(const std::filesystem::path& path, const Image& image) {
  FPSA_CHECK(image.height >= 1 && image.width >= 1 && image.height <= kMaxPixels / image.width, "cannot write '",
             path.string(), "': expected 1 to 2^28 pixels, received ", image.width, "x", image.height);
  FPSA_CHECK(static_cast<int64_t>(image.rgb.size()) == image.height * image.width * 3, "cannot write '", path.string(),
             "': expected ", image.height * image.width * 3, " bytes of pixels, received ", image.rgb.size());
  AtomicFile file(path);
  PngImage png;
  png.value.width = static_cast<png_uint_32>(image.width);
  png.value.height = static_cast<png_uint_32>(image.height);
  png.value.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png.value);
  std::vector<uint8_t> bytes(size);
  const bool written = png_image_write_to_memory(&png.value, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr);
  FPSA_CHECK(written, "cannot write '", path.string(), "': ", png.value.message);
  file.write(bytes.data(), size);
  file.commit();
}

Image read_png(const std::filesystem::path& path) {
  const std::string bytes = read_text_file(path, uint64_t{1} << 31);
  PngImage png;
  FPSA_CHECK(png_image_begin_read_from_memory(&png.value, bytes.data(), bytes.size()), "cannot read '", path.string(),
             "' as a PNG: ", png.value.message);
  const int64_t height = png.value.height, width = png.value.width;
  FPSA_CHECK(height <= kMaxPixels / std::max<int64_t>(width, 1), "cannot read '", path.string(),
             "': expected at most 2^28 pixels, received ", width, "x", height);
  png.value.format = PNG_FORMAT_RGB;
  Image image{height, width, std::vector<uint8_t>(PNG_IMAGE_SIZE(png.value))};
  const png_color black{};
  FPSA_CHECK(png_image_finish_read(&png.value, &black, image.rgb.data(), 0, nullptr), "cannot read '", path.string(),
             "' as a PNG: ", png.value.message);
  return image;
}

Image contact_sheet(const std::vector<SheetRow>& rows, int64_t columns) {
  FPSA_CHECK(!rows.empty(), "a contact sheet needs at least one row");
  FPSA_CHECK(columns >= 1, "a contact sheet needs at least one column, received ", columns);
  const int64_t label_height = kGlyphHeight + 2 * kMargin;
  Image sheet;
  sheet.height = kMargin;
  for (const SheetRow& row : rows) {
    FPSA_CHECK(row.video && row.video->frames >= 1, "row '", row.label, "' of a contact sheet has no frames");
    sheet.height += label_height + row.video->height + kMargin;
    sheet.width = std::max(sheet.width, columns * (row.video->width + kMargin) + kMargin);
  }
  sheet.rgb.assign(static_cast<size_t>(sheet.height * sheet.width * 3), 255);
  int64_t top = kMargin;
  for (const SheetRow& row : rows) {
    draw_text(sheet, top + kMargin, kMargin, row.label);
    top += label_height;
    for (int64_t column = 0; column < columns; ++column) {
      // Evenly spaced from the first frame to the last.
      const int64_t frame = columns == 1 ? 0 : (column * (row.video->frames - 1) + (columns - 1) / 2) / (columns - 1);
      paste(sheet, top, kMargin + column * (row.video->width + kMargin), *row.video, frame);
    }
    top += row.video->height + kMargin;
  }
  return sheet;
}

}  // namespace fpsa::io
