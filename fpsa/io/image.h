// 8-bit RGB images: PNG files and contact sheets.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fpsa/io/video.h"

namespace fpsa::io {

/// 8-bit sRGB pixels, rows from the top, [height, width, 3].
struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;
};

/// Writes a PNG atomically; fpsa::Error on an empty image, a size PNG lacks, or an unwritable path.
void write_png(const std::filesystem::path& path, const Image& image);

/// Reads any PNG as 8-bit RGB (grey and palettes are expanded, transparency is laid over black).
///   Errors    fpsa::Error for what is no PNG, is damaged, or has more than 2^28 pixels
Image read_png(const std::filesystem::path& path);

/// One row of a contact sheet.
struct SheetRow {
  std::string label;  // printed above the row; letters outside the built-in font show as '?'
  const Video* video = nullptr;
};

/// Lays `columns` evenly spaced frames of each video side by side, one labelled row per video.
///   Errors    fpsa::Error without rows, with columns < 1, or for an empty video
Image contact_sheet(const std::vector<SheetRow>& rows, int64_t columns);

}  // namespace fpsa::io
