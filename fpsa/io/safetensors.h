// The safetensors format: 8 bytes of header length (little endian), a JSON header, the tensors' bytes.
//
// The reader maps the file and enforces everything the format guarantees, so that a tensor's span can be used
// without further checks: header within 100 MB and the file, starting with '{', no duplicate keys, known dtypes,
// spans that follow one another without hole or overlap and end exactly at the end of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fpsa/io/dtype.h"

namespace fpsa::io {

/// The format's own limit on the header.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;

using Metadata = std::map<std::string, std::string>;

/// One tensor as the header declares it.
struct TensorEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;               // empty for a scalar
  uint64_t begin_bytes = 0, end_bytes = 0;  // within the data section

  uint64_t size_bytes() const { return end_bytes - begin_bytes; }
};

/// What the header of a file says, already checked against the file's size.
struct SafetensorsHeader {
  std::vector<TensorEntry> entries;  // in the order of their bytes
  Metadata metadata;
  uint64_t data_begin_bytes = 0;  // where the data section starts in the file
};

/// Parses and checks a header.
///   Requires  `text` is the JSON part alone; data_bytes is what follows it in the file
///   Errors    fpsa::Error naming origin, tensor, expected and received
SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_bytes, std::string_view origin);

/// A mapped, checked file.
///   Layout    spans point into a private read-only mapping; the data section starts at a multiple of 8 in files of
///             the usual writers, not in all: check alignment before reading elements in place
///   Threads   const access from any thread
///   Errors    open throws fpsa::Error on every violation. A file cut short by another process while it is mapped
///             raises SIGBUS on access, as with any mapping
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // Not from a temporary: a range-for over open(path).entries() would walk freed memory.
  const std::vector<TensorEntry>& entries() const& { return header_.entries; }
  const std::vector<TensorEntry>& entries() const&& = delete;
  const Metadata& metadata() const& { return header_.metadata; }
  const Metadata& metadata() const&& = delete;
  /// The bytes of one of entries(), valid as long as this object or a copy of mapping() lives.
  std::span<const std::byte> bytes(const TensorEntry& entry) const;
  /// Owner of the mapping, for views that outlive this object.
  const std::shared_ptr<const std::byte>& mapping() const { return mapping_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const std::byte> mapping_;
  SafetensorsHeader header_;
};

/// The sentence that tells how to turn a pickle (.pth, .pt, .bin) into a safetensors file of the same name.
std::string pickle_conversion(const std::filesystem::path& path);

/// A tensor to be written; the bytes stay the caller's.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes a file that safetensors' own reader accepts, atomically.
///   Layout    header padded to a multiple of 8, tensors by falling element size, then name: every tensor is aligned
///             to its element and the same input gives the same bytes
///   Units     metadata gains format = "pt" unless the caller set one
///   Errors    fpsa::Error on a duplicate or reserved name, bytes that do not fit dtype and shape, a full disk; the
///             temporary file is removed
void write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors, Metadata metadata = {});

}  // namespace fpsa::io
