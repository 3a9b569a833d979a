// JSON as text, for the one program that is built where no JSON library is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fpsa::bench {

/// Writes one document, indented, members in the order of the calls.
///   Requires  begin and end in pairs; key() before every member of an object
class JsonText {
 public:
  JsonText& begin_object() { return open('{'); }
  JsonText& end_object() { return close('}'); }
  JsonText& begin_array() { return open('['); }
  JsonText& end_array() { return close(']'); }
  JsonText& key(std::string_view name);
  JsonText& value(std::string_view text);
  JsonText& value(const char* text) { return value(std::string_view(text)); }
  /// null where the number is not finite, which JSON cannot say.
  JsonText& value(double number);
  JsonText& value(int64_t number) { return raw(std::to_string(number)); }
  JsonText& value(int number) { return value(int64_t{number}); }
  JsonText& value(bool truth) { return raw(truth ? "true" : "false"); }
  JsonText& null() { return raw("null"); }

  const std::string& text() const { return text_; }

 private:
  JsonText& open(char bracket);
  JsonText& close(char bracket);
  JsonText& raw(std::string_view token);
  void next();

  std::string text_;
  int depth_ = 0;
  bool first_ = true, after_key_ = false;
};

}  // namespace fpsa::bench
