// repair_text: the steps of prompt.h, applied to one line after another until the line stays as it is.

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/prompt.h"
#include "fpsa/models/wan/prompt_entities.h"
#include "fpsa/models/wan/prompt_unicode.h"

namespace fpsa::models::wan {
namespace {

bool is_ascii_alnum(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// One reference "&...;" including both ends. False when it is unknown, or means ";" itself.
bool resolve_reference(std::u32string_view reference, std::u32string& out) {
  if (reference[1] == '#') {
    const std::u32string value = unescape_html(reference);
    if (value.find(U';') != std::u32string::npos) return false;
    out += value;
    return true;
  }
  const std::string name(reference.begin() + 1, reference.end());
  const std::u32string* value = html_entity(name);
  if (value == nullptr) value = html_entity_in_capitals(name);
  if (value == nullptr) return false;
  out += *value;
  return true;
}

std::u32string resolve_references(std::u32string_view text) {
  constexpr size_t kLongest = 24;  // letters and digits of a reference that counts here
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '&') {
      size_t end = i + 1 + (i + 1 < text.size() && text[i + 1] == '#');
      const size_t first = end;
      while (end < text.size() && end - first < kLongest && is_ascii_alnum(text[end]))
        ++end;
      const bool closed = end > first && end < text.size() && text[end] == ';';
      if (closed && resolve_reference(text.substr(i, end + 1 - i), out)) {
        i = end + 1;
        continue;
      }
    }
    out.push_back(text[i++]);
  }
  return out;
}

/// The byte that a single-byte encoding reads as `c`, -1 when there is none.
int latin1_byte(char32_t c) {
  return c >= 0x80 && c <= 0xff ? static_cast<int>(c) : -1;
}

int windows_1252_byte(char32_t c) {
  if (c >= 0xa0 && c <= 0xff) return static_cast<int>(c);
  for (int byte = 0x80; byte < 0xa0; ++byte)
    if (windows_1252(static_cast<uint8_t>(byte)) == c) return byte;
  return -1;
}

/// Marks that close or follow a word in healthy text.
bool is_mark(char32_t c) {
  return c == 0x2013 || c == 0x2014 || (c >= 0x2018 && c <= 0x201e) || c == 0x2026 || c == 0x2122 || c == 0xa0 ||
         c == 0xa9 || c == 0xab || c == 0xae || c == 0xb0 || c == 0xbb;
}

/// A run of neighbouring characters above U+007F that single bytes can stand for.
struct Run {
  size_t begin = 0, end = 0;
  bool valid = false;    // its bytes spell UTF-8 in full
  bool evident = false;  // and hardly by chance
  std::u32string decoded;
};

bool is_small_ascii(std::u32string_view text, size_t place) {
  return place < text.size() && text[place] >= 'a' && text[place] <= 'z';
}

/// Whether the characters [begin, end) of text, which spell one sequence, are evidence; the rules stand in prompt.h.
bool is_evidence(std::u32string_view text, size_t begin, size_t end, uint8_t lead) {
  if (end - begin > 2) {
    for (size_t i = begin + 1; i < end; ++i)
      if (!is_mark(text[i])) return true;
    return false;
  }
  const bool beside_letter = (begin > 0 && is_small_ascii(text, begin - 1)) || is_small_ascii(text, end);
  return lead == 0xc2 || lead == 0xc3 || ((lead == 0xc4 || lead == 0xc5) && beside_letter);
}

void decode_run(std::u32string_view text, int (*byte_of)(char32_t), Run& run) {
  std::string bytes;
  for (size_t i = run.begin; i < run.end; ++i) {
    const int byte = byte_of(text[i]);
    if (byte < 0) return;
    bytes += static_cast<char>(byte);
  }
  Run result{run.begin, run.end, true, false, {}};
  for (size_t place = 0; place < bytes.size();) {
    char32_t code = 0;
    const size_t length = next_code_point(std::string_view(bytes).substr(place), code);
    if (length < 2) return;
    const size_t begin = run.begin + place;
    const uint8_t lead = static_cast<uint8_t>(bytes[place]);
    result.evident = result.evident || !result.decoded.empty() || is_evidence(text, begin, begin + length, lead);
    result.decoded.push_back(code);
    place += length;
  }
  run = std::move(result);
}

std::u32string undo_misread_utf8(std::u32string_view text) {
  std::vector<Run> runs;
  bool all_valid = true, any_evident = false;
  for (size_t i = 0; i < text.size();) {
    Run run{i, i, false, false, {}};
    while (run.end < text.size() && (latin1_byte(text[run.end]) >= 0 || windows_1252_byte(text[run.end]) >= 0))
      ++run.end;
    i = std::max(run.end, i + 1);
    if (run.begin == run.end) continue;
    decode_run(text, latin1_byte, run);
    if (!run.valid) decode_run(text, windows_1252_byte, run);
    all_valid = all_valid && run.valid;
    any_evident = any_evident || run.evident;
    runs.push_back(std::move(run));
  }
  std::u32string out;
  size_t done = 0;
  for (const Run& run : runs) {
    out += text.substr(done, run.begin - done);
    if (run.evident || (all_valid && any_evident))
      out += run.decoded;
    else
      out += text.substr(run.begin, run.end - run.begin);
    done = run.end;
  }
  return out += text.substr(done);
}

std::u32string normalize(std::u32string_view text, int options) {
  const std::string bytes = encode_utf8(text);
  utf8proc_uint8_t* result = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()), static_cast<utf8proc_ssize_t>(bytes.size()),
                   &result, static_cast<utf8proc_option_t>(options));
  FPSA_CHECK(length >= 0, "prompt: Unicode normalisation failed: ", utf8proc_errmsg(length));
  const std::string normal(reinterpret_cast<const char*>(result), static_cast<size_t>(length));
  std::free(result);
  return decode_utf8(normal, "normalised text");
}

/// Letters that a ligature or digraph stands for, nullptr for other characters. Those that are letters of their own
/// (U+00E6, U+0153) stay.
const char32_t* ligature(char32_t c) {
  switch (c) {
    case 0x0132:
      return U"IJ";
    case 0x0133:
      return U"ij";
    case 0x0149:
      return U"\u02bcn";
    case 0x01c4:
      return U"D\u017d";
    case 0x01c5:
      return U"D\u017e";
    case 0x01c6:
      return U"d\u017e";
    case 0x01c7:
      return U"LJ";
    case 0x01c8:
      return U"Lj";
    case 0x01c9:
      return U"lj";
    case 0x01ca:
      return U"NJ";
    case 0x01cb:
      return U"Nj";
    case 0x01cc:
      return U"nj";
    case 0x01f1:
      return U"DZ";
    case 0x01f2:
      return U"Dz";
    case 0x01f3:
      return U"dz";
    case 0xfb00:
      return U"ff";
    case 0xfb01:
      return U"fi";
    case 0xfb02:
      return U"fl";
    case 0xfb03:
      return U"ffi";
    case 0xfb04:
      return U"ffl";
    case 0xfb05:
      return U"\u017ft";
    case 0xfb06:
      return U"st";
    default:
      return nullptr;
  }
}

void append_width_fixed(char32_t c, std::u32string& out) {
  if (c == 0x3000)
    out.push_back(U' ');
  else if (c >= 0xff01 && c <= 0xffef)
    out += normalize(std::u32string_view(&c, 1), UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  else
    out.push_back(c);
}

char32_t straight_quote(char32_t c) {
  if (c == 0x02bc || (c >= 0x2018 && c <= 0x201b)) return U'\'';
  if (c >= 0x201c && c <= 0x201f) return U'"';
  return c;
}

/// Length of the terminal escape at the start of text (ESC [ digits and semicolons, a letter), 0 if there is none.
size_t terminal_escape(std::u32string_view text) {
  if (text.size() < 3 || text[0] != 0x1b || text[1] != '[') return 0;
  size_t end = 2;
  while (end < text.size() &&
         (text[end] == ';' || utf8proc_category(static_cast<utf8proc_int32_t>(text[end])) == UTF8PROC_CATEGORY_ND))
    ++end;
  const bool letter = end < text.size() && is_ascii_alnum(text[end]) && !(text[end] >= '0' && text[end] <= '9');
  return letter ? end + 1 : 0;
}

bool is_dropped_control(char32_t c) {
  return c <= 0x08 || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f || (c >= 0x206a && c <= 0x206f) ||
         c == 0xfeff || (c >= 0xfff9 && c <= 0xfffc);
}

/// The steps that look at one character at a time, each over the result of the one before.
std::u32string fix_characters(std::u32string_view text) {
  std::u32string letters;
  for (char32_t c : text) {
    if (c >= 0x80 && c <= 0x9f) c = windows_1252(static_cast<uint8_t>(c));
    if (const char32_t* parts = ligature(c))
      letters += parts;
    else
      letters.push_back(c);
  }
  std::u32string wide;
  for (char32_t c : letters)
    append_width_fixed(c, wide);
  std::u32string out;
  for (size_t i = 0; i < wide.size();) {
    if (const size_t length = terminal_escape(std::u32string_view(wide).substr(i))) {
      i += length;
      continue;
    }
    char32_t c = straight_quote(wide[i]);
    if (c == '\r' && i + 1 < wide.size() && wide[i + 1] == '\n') ++i;
    if (c == '\r' || c == 0x2028 || c == 0x2029 || c == 0x85) c = U'\n';
    if (!is_dropped_control(c)) out.push_back(c);
    ++i;
  }
  return normalize(out, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
}

std::u32string repair_line(std::u32string line, bool resolve) {
  for (;;) {
    std::u32string next = resolve ? resolve_references(line) : line;
    // To the end before the other steps, which would straighten quotes that are bytes of a second misreading.
    for (std::u32string undone = undo_misread_utf8(next); undone != next; undone = undo_misread_utf8(next))
      next = std::move(undone);
    next = fix_characters(next);
    if (next == line) return line;
    line = std::move(next);
  }
}

}  // namespace

std::u32string repair_text(std::u32string_view text) {
  std::u32string out;
  bool resolve = true;
  for (size_t begin = 0; begin < text.size();) {
    const size_t feed = text.find(U'\n', begin);
    const size_t end = feed == std::u32string_view::npos ? text.size() : feed + 1;
    const std::u32string_view line = text.substr(begin, end - begin);
    resolve = resolve && line.find(U'<') == std::u32string_view::npos;
    out += repair_line(std::u32string(line), resolve);
    begin = end;
  }
  return out;
}

}  // namespace fpsa::models::wan
