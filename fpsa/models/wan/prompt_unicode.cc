#include "fpsa/models/wan/prompt_unicode.h"

#include "fpsa/base/check.h"

namespace fpsa::models::wan {

size_t next_code_point(std::string_view text, char32_t& code) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) {
    code = first;
    return 1;
  }
  // Length and smallest legal value by lead byte; the smallest value rules out overlong forms.
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  const char32_t smallest = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  char32_t value = first & (0xff >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    value = (value << 6) | (byte(i) & 0x3f);
  }
  if (value < smallest || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return 0;
  code = value;
  return length;
}

std::u32string decode_utf8(std::string_view text, std::string_view what) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t place = 0; place < text.size();) {
    char32_t code = 0;
    const size_t length = next_code_point(text.substr(place), code);
    FPSA_CHECK(length > 0, what, " must be UTF-8; byte ", static_cast<int>(static_cast<uint8_t>(text[place])),
               " at offset ", place,
               " does not start a legal sequence; convert the text, for example with "
               "iconv -t UTF-8");
    out.push_back(code);
    place += length;
  }
  return out;
}

void check_utf8(std::string_view text, std::string_view what) {
  decode_utf8(text, what);
}

std::string encode_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t code : text) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xc0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xe0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
      out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
      out += static_cast<char>(0xf0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
      out += static_cast<char>(0x80 | (code & 0x3f));
    }
  }
  return out;
}

}  // namespace fpsa::models::wan
