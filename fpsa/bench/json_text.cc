#include "fpsa/bench/json_text.h"

#include <cmath>
#include <cstdio>

namespace fpsa::bench {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

void JsonText::next() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (!first_) text_ += ',';
  if (depth_ > 0) text_ += '\n' + std::string(static_cast<size_t>(2 * depth_), ' ');
  first_ = false;
}

JsonText& JsonText::open(char bracket) {
  next();
  text_ += bracket;
  ++depth_;
  first_ = true;
  return *this;
}

JsonText& JsonText::close(char bracket) {
  --depth_;
  if (!first_) text_ += '\n' + std::string(static_cast<size_t>(2 * depth_), ' ');
  text_ += bracket;
  first_ = false;
  return *this;
}

JsonText& JsonText::raw(std::string_view token) {
  next();
  text_ += token;
  return *this;
}

JsonText& JsonText::key(std::string_view name) {
  next();
  text_ += quoted(name) + ": ";
  after_key_ = true;
  return *this;
}

JsonText& JsonText::value(std::string_view text) {
  return raw(quoted(text));
}

JsonText& JsonText::value(double number) {
  if (!std::isfinite(number)) return null();
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.6g", number);
  return raw(digits);
}

}  // namespace fpsa::bench
