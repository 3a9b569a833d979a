// Element types of the safetensors format.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fpsa::io {

/// Element types that the reader and the writer know. kF8E4m3 is the finite variant (max 448, torch's e4m3fn).
enum class Dtype { kBool, kU8, kI8, kF8E4m3, kF8E5m2, kU16, kI16, kF16, kBf16, kU32, kI32, kF32, kU64, kI64, kF64 };

/// Size of one element; also the alignment that the writer gives it.
uint64_t size_bytes(Dtype dtype);

/// The format's own name, such as "BF16" or "F8_E4M3".
std::string_view name_of(Dtype dtype);

/// The type of that name; nothing for a name outside the list above.
std::optional<Dtype> dtype_from_name(std::string_view name);

/// All names, comma separated, for error messages.
std::string known_dtype_names();

}  // namespace fpsa::io
