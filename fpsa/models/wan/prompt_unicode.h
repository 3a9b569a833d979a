// UTF-8 and code points, as prompt cleaning and the tokenizer need them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fpsa::models::wan {

/// Throws fpsa::Error with the byte offset unless `text` is well-formed UTF-8 (no overlong forms, no surrogates,
/// nothing above U+10FFFF). `what` names the text in the message.
void check_utf8(std::string_view text, std::string_view what);

/// Code points of a text. Errors as check_utf8.
std::u32string decode_utf8(std::string_view text, std::string_view what);

/// UTF-8 of code points. Requires  no surrogates, nothing above U+10FFFF.
std::string encode_utf8(std::u32string_view text);

/// Number of leading bytes of `text` that are one well-formed UTF-8 sequence, 0 if there is none; `code` receives it.
size_t next_code_point(std::string_view text, char32_t& code);

}  // namespace fpsa::models::wan
