// Prompt cleaning, as Wan's pipeline does it before the tokenizer.
#pragma once

#include <string>
#include <string_view>

namespace fpsa::models::wan {

/// The prompt as the model was trained to see it: repaired (repair_text), HTML character references resolved twice
/// (unescape_html), white space collapsed to single spaces and trimmed.
///   Errors    fpsa::Error on text that is not UTF-8, with the offset
std::string clean_prompt(std::string_view prompt);

/// Resolves HTML character references by the rules of the HTML standard, as Python's html.unescape does: named ones
/// with or without the semicolon where the standard allows it (longest name first), numeric ones with the standard's
/// replacements (Windows-1252 for 128-159, U+FFFD for 0, surrogates and numbers above U+10FFFF) and without the code
/// points that it forbids.
std::u32string unescape_html(std::u32string_view text);

/// Undoes damage that text picks up on its way, line by line until nothing changes. It follows the default behaviour
/// of ftfy 6.3's fix_text, which Wan's pipeline applies. Covered, with the same result:
///   * HTML character references that end in a semicolon, until the first line with a "<" (which looks like HTML);
///     all-lowercase names also in capitals, for the character in capitals
///   * C1 control characters as Windows-1252; Latin ligatures and digraphs apart; fullwidth ASCII, halfwidth katakana
///     and the rest of U+FF01-U+FFEF, U+3000 to their ordinary forms; curly quotes straight; CR, CRLF, NEL, LS and PS
///     as line feeds; ANSI terminal escapes, ASCII control characters, BOM, interlinear marks, U+206A-U+206F and
///     U+FFFC removed; NFC
///   * UTF-8 that was read as Latin-1 or Windows-1252: runs of characters above U+007F whose bytes spell UTF-8 in full.
///     A run is decoded on evidence: a sequence of three or four bytes, unless all after its first are quotation marks
///     and the like; one that begins with byte C2 or C3; one that begins with C4 or C5 beside a small ASCII letter; two
///     sequences in a row. When all runs of a line spell UTF-8, evidence for one serves all. These rules are ours, not
///     ftfy's statistics. They agree with them on lines that were misread as a whole, in the languages of
///     tests/oracle/test_text.py; of lines damaged in part they repair more
/// Not covered: other confusions of encodings (Windows-1250, 1251, 1253, 1254, 1257, ISO 8859-2, MacRoman, code page
/// 437), broken sequences in which a byte was lost or a no-break space became a space, and CESU-8. Such text stays as
/// it is.
std::u32string repair_text(std::u32string_view text);

}  // namespace fpsa::models::wan
