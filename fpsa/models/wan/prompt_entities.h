// The HTML standard's named character references.
#pragma once

#include <string>
#include <string_view>

namespace fpsa::models::wan {

/// The text of a reference written as `name`, without "&"; nullptr when there is none. The standard's own rules: exact
/// case, and without the final semicolon only for the names that it lists so.
const std::u32string* html_entity(std::string_view name);

/// The same for a name with its semicolon, all in capitals, whose small-letter form the standard knows while nothing
/// that it knows begins the capital one: "EACUTE;" is U+00C9.
const std::u32string* html_entity_in_capitals(std::string_view name);

/// The character that a numeric reference stands for: "" where the standard forbids it, U+FFFD for what is no
/// character, Windows-1252's for 128-159. Numbers beyond 32 bits may come in as any value above 0x10FFFF.
std::u32string html_numeric(uint64_t number);

/// Windows-1252's character for a byte; the five that it leaves open stand for themselves, as browsers have it.
char32_t windows_1252(uint8_t byte);

}  // namespace fpsa::models::wan
