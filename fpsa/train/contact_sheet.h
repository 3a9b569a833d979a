// Clips in memory as one PNG, a labelled row each.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fpsa::train {

/// One row of a sheet.
struct SheetClip {
  std::string label;
  at::Tensor pixels;  // [frames, height, width, 3] uint8
};

/// Writes `columns` evenly spaced frames of every clip, shrunk by a whole factor to at most `side` pixels.
///   Errors    fpsa::Error without clips or when the file cannot be written
void write_contact_sheet(const std::filesystem::path& path, const std::vector<SheetClip>& clips, int64_t columns,
                         int64_t side);

}  // namespace fpsa::train
