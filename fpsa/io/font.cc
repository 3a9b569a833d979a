#include "fpsa/io/font.h"

#include <array>
#include <cctype>

#include "fpsa/io/image.h"

namespace fpsa::io {
namespace {

constexpr int64_t kRows = 7, kColumns = 5, kCell = kColumns + 1, kZoom = 2;

// Glyphs side by side, five columns and a gap each; `letters` names them from left to right.
struct Band {
  std::string_view letters;
  std::array<std::string_view, kRows> rows;
};

// clang-format off
constexpr Band kBands[] = {
    {"ABCDEFGHIJKLM", {
        " ###  ####   #### ####  ##### #####  #### #   #  ###     ## #   # #     #   # ",
        "#   # #   # #     #   # #     #     #     #   #   #       # #  #  #     ## ## ",
        "#   # #   # #     #   # #     #     #     #   #   #       # # #   #     # # # ",
        "##### ####  #     #   # ####  ####  #  ## #####   #       # ##    #     # # # ",
        "#   # #   # #     #   # #     #     #   # #   #   #   #   # # #   #     #   # ",
        "#   # #   # #     #   # #     #     #   # #   #   #   #   # #  #  #     #   # ",
        "#   # ####   #### ####  ##### #      #### #   #  ###   ###  #   # ##### #   # "}},
    {"NOPQRSTUVWXYZ", {
        "#   #  ###  ####   ###  ####   #### ##### #   # #   # #   # #   # #   # ##### ",
        "##  # #   # #   # #   # #   # #       #   #   # #   # #   # #   # #   #     # ",
        "# # # #   # #   # #   # #   # #       #   #   # #   # #   #  # #   # #     #  ",
        "# # # #   # ####  #   # ####   ###    #   #   # #   # # # #   #     #     #   ",
        "#  ## #   # #     # # # # #       #   #   #   # #   # # # #  # #    #    #    ",
        "#   # #   # #     #  #  #  #      #   #   #   #  # #  ## ## #   #   #   #     ",
        "#   #  ###  #      ## # #   # ####    #    ###    #   #   # #   #   #   ##### "}},
    {"0123456789", {
        " ###    #    ###  ####     ## #####  ###  #####  ###   ###  ",
        "#   #  ##   #   #     #   # # #     #         # #   # #   # ",
        "#  ##   #       #     #  #  # ####  #        #  #   # #   # ",
        "# # #   #     ##   ###  #   #     # ####    #    ###   #### ",
        "##  #   #    #        # #####     # #   #   #   #   #     # ",
        "#   #   #   #         #     # #   # #   #  #    #   #     # ",
        " ###   ###  ##### ####      #  ###   ###   #     ###   ###  "}},
    {".,:;-_/()%+='!?", {
        "                                        #    #   #    ##  #               #     #    ###  ",
        "             ##    ##                   #   #     #   ##  #   #           #     #   #   # ",
        "             ##    ##                  #   #       #     #    #   #####  #      #       # ",
        "                        #####         #    #       #    #   #####               #      #  ",
        "             ##    ##                #     #       #   #      #   #####         #     #   ",
        " ##    ##    ##     #               #       #     #   #  ##   #                           ",
        " ##     #          #          ##### #        #   #    #  ##                     #     #   "}},
};
// clang-format on

struct Glyph {
  const Band* band;
  size_t column;
};

Glyph glyph_of(char letter) {
  for (const Band& band : kBands) {
    const size_t place = band.letters.find(letter);
    if (place != std::string_view::npos) return {&band, place * kCell};
  }
  return glyph_of('?');
}

void fill(Image& image, int64_t top, int64_t left) {
  for (int64_t y = top; y < top + kZoom; ++y)
    for (int64_t x = left; x < left + kZoom; ++x) {
      if (y < 0 || x < 0 || y >= image.height || x >= image.width) continue;
      for (int64_t channel = 0; channel < 3; ++channel)
        image.rgb[static_cast<size_t>((y * image.width + x) * 3 + channel)] = 0;
    }
}

}  // namespace

void draw_text(Image& image, int64_t top, int64_t left, std::string_view text) {
  for (const char c : text) {
    if ((c & 0xC0) == 0x80) continue;  // continuation byte of a character already drawn
    const char letter = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (letter != ' ') {
      const Glyph glyph = glyph_of(letter);
      for (int64_t row = 0; row < kRows; ++row)
        for (int64_t column = 0; column < kColumns; ++column)
          if (glyph.band->rows[static_cast<size_t>(row)][glyph.column + static_cast<size_t>(column)] == '#')
            fill(image, top + row * kZoom, left + column * kZoom);
    }
    left += kGlyphAdvance;
  }
}

}  // namespace fpsa::io
