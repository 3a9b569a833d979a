#include "fpsa/models/wan/prompt_entities.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>

namespace fpsa::models::wan {
namespace {

constexpr std::string_view kEntries =
#include "fpsa/models/wan/prompt_entities.inc"
    ;

// Bytes 0x80 to 0x9f.
constexpr std::array<char16_t, 32> kWindows1252 = {0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
                                                   0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x008d, 0x017d, 0x008f,
                                                   0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                                   0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178};

struct Tables {
  std::unordered_map<std::string, std::u32string> exact, capitals;
};

std::u32string parse_codes(std::string_view text) {
  std::u32string out;
  while (!text.empty()) {
    uint32_t code = 0;
    const char* end = std::from_chars(text.data(), text.data() + text.size(), code, 16).ptr;
    out.push_back(code);
    text.remove_prefix(std::min<size_t>(text.size(), static_cast<size_t>(end - text.data()) + 1));
  }
  return out;
}

Tables parse_entries() {
  Tables tables;
  for (std::string_view rest = kEntries; !rest.empty();) {
    const std::string_view entry = rest.substr(0, rest.find(' '));
    rest.remove_prefix(entry.size() + 1);
    const size_t equals = entry.find('='), caret = entry.find('^');
    const bool bare = entry[equals - 1] == '!';
    const std::string name(entry.substr(0, equals - (bare ? 1 : 0)));
    const std::u32string value = parse_codes(entry.substr(equals + 1, caret - equals - 1));
    if (caret != std::string_view::npos) {
      std::string upper = name + ";";
      for (char& c : upper)
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
      tables.capitals.emplace(upper, caret + 1 < entry.size() ? parse_codes(entry.substr(caret + 1)) : value);
    }
    if (bare) tables.exact.emplace(name, value);
    tables.exact.emplace(name + ";", value);
  }
  return tables;
}

const Tables& tables() {
  static const Tables parsed = parse_entries();
  return parsed;
}

const std::u32string* find(const std::unordered_map<std::string, std::u32string>& map, std::string_view name) {
  const auto it = map.find(std::string(name));
  return it == map.end() ? nullptr : &it->second;
}

}  // namespace

const std::u32string* html_entity(std::string_view name) {
  return find(tables().exact, name);
}

const std::u32string* html_entity_in_capitals(std::string_view name) {
  return find(tables().capitals, name);
}

char32_t windows_1252(uint8_t byte) {
  return byte >= 0x80 && byte <= 0x9f ? static_cast<char32_t>(kWindows1252[byte - 0x80]) : byte;
}

std::u32string html_numeric(uint64_t number) {
  if (number == 0 || number > 0x10ffff || (number >= 0xd800 && number <= 0xdfff)) return U"\ufffd";
  if (number >= 0x80 && number <= 0x9f) return {windows_1252(static_cast<uint8_t>(number))};
  const bool control = number < 0x20 && number != '\t' && number != '\n' && number != '\f' && number != '\r';
  const bool no_character = (number >= 0xfdd0 && number <= 0xfdef) || (number & 0xfffe) == 0xfffe;
  if (control || number == 0x7f || no_character) return {};
  return {static_cast<char32_t>(number)};
}

}  // namespace fpsa::models::wan
