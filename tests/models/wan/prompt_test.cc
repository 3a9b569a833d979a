#include "fpsa/models/wan/prompt.h"

#include <gtest/gtest.h>

#include "fpsa/base/check.h"
#include "fpsa/models/wan/prompt_entities.h"
#include "fpsa/models/wan/prompt_unicode.h"

namespace fpsa::models::wan {
namespace {

using namespace std::string_literals;

TEST(CleanPrompt, CollapsesWhiteSpace) {
  EXPECT_EQ(clean_prompt(""), "");
  EXPECT_EQ(clean_prompt(" \t\n "), "");
  EXPECT_EQ(clean_prompt("  a \r\n\t cat\u00a0\u2003 sits \u3000"), "a cat sits");
}

TEST(CleanPrompt, ResolvesHtmlReferences) {
  EXPECT_EQ(clean_prompt("a &amp; b"), "a & b");
  EXPECT_EQ(clean_prompt("&amp;amp;amp;lt;x&gt;"), "<x>");
  EXPECT_EQ(clean_prompt("&#128;&#x41;&#66 &#xD800; &#1;"), "€AB \ufffd");
  EXPECT_EQ(clean_prompt("&notit; &notin; &hellip;"), "¬it; ∉ …");
  EXPECT_EQ(clean_prompt("&EACUTE; &BUNDES; &SZLIG;"), "É &BUNDES; SS");
  EXPECT_EQ(clean_prompt("<b> &EACUTE;"), "<b> &EACUTE;") << "looks like HTML, so capitals are left";
  EXPECT_EQ(clean_prompt("& &; &# &#; &#x; AT&T"), "& &; &# &#; &#x; AT&T");
  EXPECT_EQ(clean_prompt("&#99999999999999999999999999;"), "\ufffd");
}

TEST(CleanPrompt, StraightensQuotesAndWidths) {
  EXPECT_EQ(clean_prompt("\u201cit\u2019s\u201d"), "\"it's\"");
  EXPECT_EQ(clean_prompt("ＬＯＵＤ　ﾀｰ ﬁne Ĳ ŉ"), "LOUD ター fine IJ 'n");
}

TEST(CleanPrompt, DropsControlsAndEscapes) {
  EXPECT_EQ(clean_prompt("\x1b[31;1mred\x1b[0m cat"), "red cat");
  EXPECT_EQ(clean_prompt("a\u0007b\ufeffc\u206ad\ufffce"), "abcde");
  EXPECT_EQ(clean_prompt("a\0b"s), "ab");
}

TEST(CleanPrompt, ComposesAccents) {
  EXPECT_EQ(clean_prompt("e\u0301"), "é");
}

TEST(CleanPrompt, UndoesMisreadUtf8) {
  EXPECT_EQ(clean_prompt("cafÃ©"), "café");
  EXPECT_EQ(clean_prompt("itâ€™s â€œfineâ€\u009d"), "it's \"fine\"");
  EXPECT_EQ(clean_prompt("é›ª \u00f0\u0178\u02dc\u20ac"), "雪 😀");
  EXPECT_EQ(clean_prompt("cafÃƒÂ©"), "café") << "twice misread";
  EXPECT_EQ(clean_prompt("Ð¿Ñ€Ð¸"), "при");
}

TEST(CleanPrompt, LeavesHealthyTextAlone) {
  for (const char* text : {"CAFÉ…", "naïve façade, 20 °C", "Ångström", "雪の中の猫 😀👩‍👩‍👧",
                           "È vero", "¿Qué?", "SMÖRGÅSBORD®", "«déjà vu»", "Привет", "CAFÉ\""})
    EXPECT_EQ(clean_prompt(text), text);
}

TEST(CleanPrompt, RefusesTextThatIsNotUtf8) {
  for (const std::string& text : {"a\xff"s, "\xc0\x80"s, "\xe2\x82"s, "\xed\xa0\x80"s, "\xf4\x90\x80\x80"s, "\x80"s}) {
    try {
      clean_prompt(text);
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("UTF-8"), std::string::npos);
    }
  }
}

TEST(HtmlEntity, TableIsComplete) {
  ASSERT_NE(html_entity("CounterClockwiseContourIntegral;"), nullptr);
  EXPECT_EQ(*html_entity("NotEqualTilde;"), U"\u2242\u0338");
  EXPECT_EQ(*html_entity("AMP"), U"&");
  EXPECT_EQ(html_entity("hellip"), nullptr) << "needs its semicolon";
  EXPECT_EQ(html_entity(""), nullptr);
}

TEST(Utf8, RoundTripsEveryCodePoint) {
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    if (c == 0xd800) c = 0xe000;
    const std::u32string one(1, c);
    ASSERT_EQ(decode_utf8(encode_utf8(one), "text"), one) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace fpsa::models::wan
