#include "fpsa/app/failure.h"

#include <c10/util/Exception.h>

#include <cctype>
#include <charconv>
#include <new>

#include "fpsa/app/interrupt.h"
#include "fpsa/app/machine.h"
#include "fpsa/app/usage_error.h"

namespace fpsa::app {
namespace {

// torch throws one type for everything on the CPU; its allocators are known by their words.
bool speaks_of_memory(const std::string& text) {
  for (const char* words : {"can't allocate memory", "not enough memory", "out of memory"})
    if (text.find(words) != std::string::npos) return true;
  return false;
}

// The number in "... you tried to allocate 123 bytes ...", or nothing.
std::optional<int64_t> bytes_asked_for(const std::string& text) {
  constexpr std::string_view mark = "tried to allocate ";
  const auto at = text.find(mark);
  if (at == std::string::npos) return std::nullopt;
  int64_t bytes = 0;
  const char* begin = text.data() + at + mark.size();
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), bytes);
  const bool whole = error == std::errc() && std::string_view(end).starts_with(" bytes");
  return whole ? std::optional(bytes) : std::nullopt;
}

}  // namespace

std::optional<std::string> out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return "out of memory";
  const auto* torchs = dynamic_cast<const c10::Error*>(&error);
  if (!torchs) return std::nullopt;
  const std::string text = torchs->what_without_backtrace();
  if (!dynamic_cast<const c10::OutOfMemoryError*>(torchs) && !speaks_of_memory(text)) return std::nullopt;
  const auto bytes = bytes_asked_for(text);
  return bytes ? "out of memory: " + bytes_text(*bytes) + " could not be allocated" : "out of memory";
}

std::string message_of(const std::exception& error) {
  if (const auto text = out_of_memory(error)) return *text + "; smaller inputs need less";
  if (const auto* torchs = dynamic_cast<const c10::Error*>(&error)) return torchs->what_without_backtrace();
  return error.what();
}

Failure failure_of(const std::exception& error) {
  if (const auto* interrupted = dynamic_cast<const Interrupted*>(&error))
    return {"interrupted", interrupted->exit_code()};
  if (dynamic_cast<const UsageError*>(&error)) return {join("error: ", error.what()), kUsage};
  return {join("error: ", message_of(error)), kFailed};
}

}  // namespace fpsa::app
