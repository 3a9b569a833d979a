#include "fpsa/io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "fpsa/base/check.h"
#include "fpsa/io/atomic_file.h"

namespace fpsa::io {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are mapped as they lie in the file");

constexpr uint64_t kPrefixBytes = 8;

struct Mapping {
  std::shared_ptr<const std::byte> bytes;
  uint64_t size_bytes = 0;
};

Mapping map_file(const std::filesystem::path& path) {
  // Without O_NONBLOCK a named pipe would hang here before fstat can refuse it.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  FPSA_CHECK(descriptor >= 0, "cannot open '", path.string(), "': ", std::strerror(errno));
  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } closer{descriptor};
  struct stat status {};
  FPSA_CHECK(::fstat(descriptor, &status) == 0, "cannot open '", path.string(), "': ", std::strerror(errno));
  FPSA_CHECK(S_ISREG(status.st_mode), "cannot open '", path.string(), "': expected a regular file");
  const auto size = static_cast<uint64_t>(status.st_size);
  FPSA_CHECK(size >= kPrefixBytes, path.string(), ": expected at least ", kPrefixBytes,
             " bytes (the header length), received ", size, "; the file is truncated");
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  FPSA_CHECK(address != MAP_FAILED, "cannot map '", path.string(), "': ", std::strerror(errno));
  return {std::shared_ptr<const std::byte>(static_cast<const std::byte*>(address),
                                           [size](const std::byte* p) { ::munmap(const_cast<std::byte*>(p), size); }),
          size};
}

// Pickles and zip archives (.pth, .pt, .bin) are the usual files given by mistake. Their first bytes are a legal header
// length, so only the missing '{' tells them from the real format.
void refuse_pickle(const Mapping& file, const std::filesystem::path& path) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(file.bytes.get());
  if (file.size_bytes > kPrefixBytes && bytes[kPrefixBytes] == '{') return;
  const bool zip = bytes[0] == 'P' && bytes[1] == 'K' && bytes[2] == 3 && bytes[3] == 4;
  const bool pickle = bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5;
  FPSA_CHECK(!zip && !pickle, path.string(),
             ": this is a Python pickle, which can run code when it is read; expected a safetensors file. ",
             pickle_conversion(path));
}

void check_view(const TensorView& tensor, const std::filesystem::path& path) {
  uint64_t expected = size_bytes(tensor.dtype);
  for (int64_t extent : tensor.shape) {
    FPSA_CHECK(extent >= 0, "cannot write '", path.string(), "': tensor '", tensor.name, "' has a negative extent ",
               extent);
    FPSA_CHECK(!__builtin_mul_overflow(expected, static_cast<uint64_t>(extent), &expected), "cannot write '",
               path.string(), "': the size of tensor '", tensor.name, "' overflows 64 bits");
  }
  FPSA_CHECK(tensor.bytes.size() == expected, "cannot write '", path.string(), "': tensor '", tensor.name,
             "': expected ", expected, " bytes for its shape and dtype, received ", tensor.bytes.size());
  FPSA_CHECK(tensor.name != "__metadata__", "cannot write '", path.string(), "': '__metadata__' is not a tensor name");
}

std::string header_text(const std::vector<TensorView>& tensors, const Metadata& metadata,
                        const std::filesystem::path& path) {
  // An ordered object, so that the header lists tensors in the order of their bytes.
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    FPSA_CHECK(names.insert(tensor.name).second, "cannot write '", path.string(), "': tensor '", tensor.name,
               "' is given twice");
    const uint64_t end = offset + tensor.bytes.size();
    nlohmann::ordered_json& entry = header[tensor.name];
    entry["dtype"] = name_of(tensor.dtype);
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, end};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw Error(join("cannot write '", path.string(), "': a name or metadata text is not UTF-8: ", error.what()));
  }
  text.append((kPrefixBytes - text.size() % kPrefixBytes) % kPrefixBytes, ' ');
  FPSA_CHECK(text.size() <= kMaxHeaderBytes, "cannot write '", path.string(), "': expected a header of at most ",
             kMaxHeaderBytes, " bytes, received ", text.size());
  return text;
}

}  // namespace

std::string pickle_conversion(const std::filesystem::path& path) {
  return join(
      "Convert it (this reads tensors only, never code): python -c \"import torch, safetensors.torch as s; "
      "d = torch.load('",
      path.string(),
      "', map_location='cpu', weights_only=True); s.save_file({k: "
      "v.contiguous().clone() for k, v in d.items()}, '",
      std::filesystem::path(path).replace_extension(".safetensors").string(), "')\"");
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  Mapping mapping = map_file(path);
  refuse_pickle(mapping, path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapping.bytes.get(), kPrefixBytes);
  FPSA_CHECK(header_bytes <= kMaxHeaderBytes, path.string(), ": expected a header of at most ", kMaxHeaderBytes,
             " bytes, received ", header_bytes, "; this is not a safetensors file");
  const uint64_t after_prefix = mapping.size_bytes - kPrefixBytes;
  FPSA_CHECK(header_bytes <= after_prefix, path.string(), ": expected a header of ", header_bytes, " bytes, received ",
             after_prefix, "; the file is truncated");
  const std::string_view text(reinterpret_cast<const char*>(mapping.bytes.get()) + kPrefixBytes, header_bytes);

  SafetensorsFile file;
  file.path_ = path;
  file.header_ = parse_safetensors_header(text, after_prefix - header_bytes, path.string());
  file.header_.data_begin_bytes = kPrefixBytes + header_bytes;
  file.mapping_ = std::move(mapping.bytes);
  return file;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorEntry& entry) const {
  return {mapping_.get() + header_.data_begin_bytes + entry.begin_bytes, entry.size_bytes()};
}

void write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors, Metadata metadata) {
  for (const TensorView& tensor : tensors)
    check_view(tensor, path);
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    const uint64_t size_a = size_bytes(a.dtype), size_b = size_bytes(b.dtype);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  metadata.try_emplace("format", "pt");
  const std::string header = header_text(tensors, metadata, path);
  const uint64_t header_bytes = header.size();

  AtomicFile file(path);
  file.write(&header_bytes, kPrefixBytes);
  file.write(header.data(), header.size());
  for (const TensorView& tensor : tensors)
    file.write(tensor.bytes.data(), tensor.bytes.size());
  file.commit();
}

}  // namespace fpsa::io
