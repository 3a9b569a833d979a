// The header is parsed by events, not into a tree: duplicate keys, which a tree would swallow, are seen, and nothing
// but the entries themselves is ever allocated.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "fpsa/base/check.h"
#include "fpsa/io/safetensors.h"

namespace fpsa::io {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += join(i ? ", " : "", shape[i]);
  return text + "]";
}

class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(std::string_view origin) : origin_(origin) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { return unexpected(join("the number ", value)); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected(join("the number ", text)); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool start_object(std::size_t) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool key(string_t& value) override;
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    throw Error(join(origin_, ": the header is not valid JSON: ", error.what()));
  }

  std::vector<TensorEntry> entries;
  Metadata metadata;

 private:
  // kTop: among tensor names. kMetadata: inside __metadata__. kTensor: inside one tensor's object.
  enum class Level { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };

  [[noreturn]] bool unexpected(const std::string& received) const;
  void finish_tensor();

  std::string origin_;
  Level level_ = Level::kOutside;
  std::string key_;               // key at the current object level
  std::set<std::string> names_;   // of the top level
  std::set<std::string> fields_;  // of the tensor being read
  std::vector<uint64_t> offsets_;
  TensorEntry entry_;
};

bool HeaderHandler::unexpected(const std::string& received) const {
  switch (level_) {
    case Level::kOutside:
      throw Error(join(origin_, ": expected a JSON object as header, received ", received));
    case Level::kTop:
      throw Error(join(origin_, ": '", key_, "': expected a JSON object, received ", received));
    case Level::kMetadata:
      throw Error(join(origin_, ": __metadata__ '", key_, "': expected a string, received ", received));
    case Level::kTensor:
      throw Error(join(origin_, ": tensor '", entry_.name, "', field '", key_, "': unexpected ", received));
    case Level::kShape:
      throw Error(join(origin_, ": tensor '", entry_.name,
                       "': expected a shape of integers from 0 to 2^63-1, received ", received));
    case Level::kOffsets:
      throw Error(
          join(origin_, ": tensor '", entry_.name, "': expected data_offsets of two integers, received ", received));
  }
  throw Error(join(origin_, ": unexpected ", received));
}

bool HeaderHandler::number_unsigned(number_unsigned_t value) {
  if (level_ == Level::kShape && value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    entry_.shape.push_back(static_cast<int64_t>(value));
  } else if (level_ == Level::kOffsets && offsets_.size() < 2) {
    offsets_.push_back(value);
  } else {
    unexpected(join("the number ", value));
  }
  return true;
}

bool HeaderHandler::string(string_t& value) {
  if (level_ == Level::kMetadata) {
    metadata[key_] = value;
    return true;
  }
  if (level_ != Level::kTensor || key_ != "dtype") unexpected(join("the string '", value, "'"));
  const std::optional<Dtype> dtype = dtype_from_name(value);
  FPSA_CHECK(dtype, origin_, ": tensor '", entry_.name, "': expected a dtype among ", known_dtype_names(),
             ", received '", value, "'");
  entry_.dtype = *dtype;
  return true;
}

bool HeaderHandler::start_object(std::size_t) {
  if (level_ == Level::kOutside) {
    level_ = Level::kTop;
  } else if (level_ == Level::kTop && key_ == kMetadataKey) {
    level_ = Level::kMetadata;
  } else if (level_ == Level::kTop) {
    level_ = Level::kTensor;
    entry_ = TensorEntry{};
    entry_.name = key_;
    fields_.clear();
  } else {
    unexpected("an object");
  }
  return true;
}

bool HeaderHandler::key(string_t& value) {
  if (level_ == Level::kTop) {
    FPSA_CHECK(names_.insert(value).second, origin_, ": tensor name '", value, "' appears twice in the header");
  } else if (level_ == Level::kMetadata) {
    FPSA_CHECK(!metadata.contains(value), origin_, ": __metadata__ key '", value, "' appears twice");
  } else {
    FPSA_CHECK(value == "dtype" || value == "shape" || value == "data_offsets", origin_, ": tensor '", entry_.name,
               "': expected the fields dtype, shape and data_offsets, received '", value, "'");
    FPSA_CHECK(fields_.insert(value).second, origin_, ": tensor '", entry_.name, "': field '", value,
               "' appears twice");
  }
  key_ = value;
  return true;
}

bool HeaderHandler::start_array(std::size_t) {
  if (level_ == Level::kTensor && key_ == "shape") {
    level_ = Level::kShape;
  } else if (level_ == Level::kTensor && key_ == "data_offsets") {
    level_ = Level::kOffsets;
    offsets_.clear();
  } else {
    unexpected("an array");
  }
  return true;
}

bool HeaderHandler::end_array() {
  if (level_ == Level::kOffsets)
    FPSA_CHECK(offsets_.size() == 2, origin_, ": tensor '", entry_.name, "': expected two data_offsets, received ",
               offsets_.size());
  level_ = Level::kTensor;
  return true;
}

bool HeaderHandler::end_object() {
  if (level_ == Level::kTensor) finish_tensor();
  level_ = level_ == Level::kTop ? Level::kOutside : Level::kTop;
  return true;
}

void HeaderHandler::finish_tensor() {
  for (const char* field : {"dtype", "shape", "data_offsets"})
    FPSA_CHECK(fields_.contains(field), origin_, ": tensor '", entry_.name, "': field '", field, "' is missing");
  entry_.begin_bytes = offsets_[0];
  entry_.end_bytes = offsets_[1];
  FPSA_CHECK(entry_.begin_bytes <= entry_.end_bytes, origin_, ": tensor '", entry_.name,
             "': expected data_offsets [begin, end] with begin <= end, received [", offsets_[0], ", ", offsets_[1],
             "]");
  uint64_t expected = size_bytes(entry_.dtype);
  bool overflows = false;
  for (int64_t extent : entry_.shape)
    overflows |= __builtin_mul_overflow(expected, static_cast<uint64_t>(extent), &expected);
  FPSA_CHECK(!overflows, origin_, ": tensor '", entry_.name, "': the size of shape ", shape_text(entry_.shape),
             " overflows 64 bits");
  FPSA_CHECK(entry_.size_bytes() == expected, origin_, ": tensor '", entry_.name, "': expected ", expected,
             " bytes for ", name_of(entry_.dtype), " ", shape_text(entry_.shape), ", received data_offsets of ",
             entry_.size_bytes(), " bytes");
  entries.push_back(std::move(entry_));
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_bytes, std::string_view origin) {
  FPSA_CHECK(!text.empty() && text.front() == '{', origin, ": expected a header that starts with '{', received ",
             text.empty() ? std::string("an empty one") : join("byte ", +static_cast<unsigned char>(text.front())));
  HeaderHandler handler(origin);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);

  SafetensorsHeader header;
  header.entries = std::move(handler.entries);
  header.metadata = std::move(handler.metadata);
  std::stable_sort(header.entries.begin(), header.entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.begin_bytes, a.end_bytes) < std::pair(b.begin_bytes, b.end_bytes);
  });
  uint64_t expected_begin = 0;
  for (const TensorEntry& entry : header.entries) {
    FPSA_CHECK(entry.begin_bytes == expected_begin, origin, ": tensor '", entry.name,
               "': expected its bytes at offset ", expected_begin, ", received ", entry.begin_bytes,
               entry.begin_bytes < expected_begin ? " (it overlaps another tensor)" : " (there is a hole before it)");
    expected_begin = entry.end_bytes;
    FPSA_CHECK(entry.end_bytes <= data_bytes, origin, ": tensor '", entry.name, "': expected ", entry.end_bytes,
               " bytes of tensor data in the file, received ", data_bytes, "; the file is truncated");
  }
  FPSA_CHECK(expected_begin == data_bytes, origin, ": expected the file to end with its last tensor, ", expected_begin,
             " bytes after the header, received ", data_bytes, " bytes");
  return header;
}

}  // namespace fpsa::io
