// A small bitmap font for labels on contact sheets.
#pragma once

#include <cstdint>
#include <string_view>

namespace fpsa::io {

struct Image;

inline constexpr int64_t kGlyphHeight = 14;   // pixels: 7 rows, doubled
inline constexpr int64_t kGlyphAdvance = 12;  // pixels from one letter to the next: 5 columns and a gap, doubled

/// Draws black letters, cut off at the image's border.
///   Edges     lower case is drawn as upper case; anything outside letters, digits and .,:;-_/()%+='!? becomes '?',
///   once
///             per UTF-8 character
void draw_text(Image& image, int64_t top, int64_t left, std::string_view text);

}  // namespace fpsa::io
