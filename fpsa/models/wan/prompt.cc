#include "fpsa/models/wan/prompt.h"

#include <algorithm>

#include "fpsa/models/wan/prompt_entities.h"
#include "fpsa/models/wan/prompt_unicode.h"

namespace fpsa::models::wan {
namespace {

// White space as Python's str methods and regular expressions see it, the reference for this step.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::u32string collapse_spaces(std::u32string_view text) {
  std::u32string out;
  bool pending = false;
  for (char32_t c : text) {
    if (is_space(c)) {
      pending = !out.empty();
      continue;
    }
    if (pending) out.push_back(U' ');
    pending = false;
    out.push_back(c);
  }
  return out;
}

int digit_value(char32_t c, int base) {
  if (c >= '0' && c <= '9') return static_cast<int>(c - '0');
  if (base == 16 && c >= 'a' && c <= 'f') return static_cast<int>(c - 'a') + 10;
  if (base == 16 && c >= 'A' && c <= 'F') return static_cast<int>(c - 'A') + 10;
  return -1;
}

// Appends what the reference at text[0] == '&' means and returns its length; 1 and "&" when it means nothing.
size_t resolve_numeric(std::u32string_view text, std::u32string& out) {
  const bool hex = text.size() > 2 && (text[2] == 'x' || text[2] == 'X');
  const int base = hex ? 16 : 10;
  const size_t first = hex ? 3 : 2;
  size_t end = first;
  uint64_t number = 0;
  for (; end < text.size() && digit_value(text[end], base) >= 0; ++end)
    number = std::min<uint64_t>(number * base + digit_value(text[end], base), 0x110000);  // saturates: no character
  if (end == first) {
    out.push_back(U'&');
    return 1;
  }
  out += html_numeric(number);
  return end < text.size() && text[end] == ';' ? end + 1 : end;
}

size_t resolve_named(std::u32string_view text, std::u32string& out) {
  constexpr size_t kLongest = 32;  // characters that the standard's tokenizer, as Python has it, looks at
  std::string name;
  for (size_t i = 1; i < text.size() && name.size() < kLongest; ++i) {
    const char32_t c = text[i];
    // Every name is ASCII, so anything else ends the longest possible one.
    if (c > 0x7f || c == '\t' || c == '\n' || c == '\f' || c == ' ' || c == '<' || c == '&' || c == '#' || c == ';')
      break;
    name += static_cast<char>(c);
  }
  const size_t end = 1 + name.size();
  if (end < text.size() && text[end] == ';') name += ';';
  for (size_t length = name.size(); length >= 2; --length) {
    if (const std::u32string* value = html_entity(std::string_view(name).substr(0, length))) {
      out += *value;
      return 1 + length;
    }
  }
  out.push_back(U'&');
  return 1;
}

}  // namespace

std::u32string unescape_html(std::u32string_view text) {
  std::u32string out;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '&') {
      out.push_back(text[i++]);
      continue;
    }
    const std::u32string_view rest = text.substr(i);
    i += rest.size() > 1 && rest[1] == '#' ? resolve_numeric(rest, out) : resolve_named(rest, out);
  }
  return out;
}

std::string clean_prompt(std::string_view prompt) {
  std::u32string text = repair_text(decode_utf8(prompt, "the prompt"));
  return encode_utf8(collapse_spaces(unescape_html(unescape_html(text))));
}

}  // namespace fpsa::models::wan
