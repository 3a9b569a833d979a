#include "fpsa/io/dtype.h"

#include <array>

namespace fpsa::io {
namespace {

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  uint64_t size_bytes;
};

// In the order of the enum, which indexes it.
constexpr std::array kRows = {
    DtypeRow{Dtype::kBool, "BOOL", 1},      DtypeRow{Dtype::kU8, "U8", 1},          DtypeRow{Dtype::kI8, "I8", 1},
    DtypeRow{Dtype::kF8E4m3, "F8_E4M3", 1}, DtypeRow{Dtype::kF8E5m2, "F8_E5M2", 1}, DtypeRow{Dtype::kU16, "U16", 2},
    DtypeRow{Dtype::kI16, "I16", 2},        DtypeRow{Dtype::kF16, "F16", 2},        DtypeRow{Dtype::kBf16, "BF16", 2},
    DtypeRow{Dtype::kU32, "U32", 4},        DtypeRow{Dtype::kI32, "I32", 4},        DtypeRow{Dtype::kF32, "F32", 4},
    DtypeRow{Dtype::kU64, "U64", 8},        DtypeRow{Dtype::kI64, "I64", 8},        DtypeRow{Dtype::kF64, "F64", 8},
};

constexpr bool rows_follow_the_enum() {
  for (size_t i = 0; i < kRows.size(); ++i)
    if (kRows[i].dtype != static_cast<Dtype>(i)) return false;
  return true;
}
static_assert(rows_follow_the_enum());

const DtypeRow& row_of(Dtype dtype) {
  return kRows[static_cast<size_t>(dtype)];
}

}  // namespace

uint64_t size_bytes(Dtype dtype) {
  return row_of(dtype).size_bytes;
}

std::string_view name_of(Dtype dtype) {
  return row_of(dtype).name;
}

std::optional<Dtype> dtype_from_name(std::string_view name) {
  for (const DtypeRow& row : kRows)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

std::string known_dtype_names() {
  std::string names;
  for (const DtypeRow& row : kRows) {
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

}  // namespace fpsa::io
