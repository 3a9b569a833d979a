// Block masks for Python: as CSR tensors, which is how the operators take them.
#include <torch/csrc/utils/pybind.h>

#include <ATen/ATen.h>

#include "fpsa/ops/register.h"
#include "fpsa/pattern/registry.h"
#include "python/native/conversions.h"

namespace fpsa::python {
namespace {

using pattern::BlockMask;

at::Tensor tensor_of(const std::vector<int32_t>& values) {
  auto x = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), x.mutable_data_ptr<int32_t>());
  return x;
}

// Mask and order of the arguments that every function takes.
struct Placed {
  pattern::TileOrder order;
  BlockMask mask;
};

Placed placed(const pattern::Grid& grid, const pattern::Grid& tile, const at::Tensor& row_begin,
              const at::Tensor& col) {
  const int64_t tiles = pattern::tiles_per_axis(grid, tile).volume();
  auto rows = ops::int32_values(row_begin, "row_begin");
  const auto entries = static_cast<int64_t>(rows.size());
  FPSA_CHECK(entries > 1 && (entries - 1) % tiles == 0, "row_begin: expected heads * ", tiles,
             " + 1 entries for the tiles of grid ", pattern::to_string(grid), ", got ", entries);
  return {pattern::TileOrder(grid, tile),
          pattern::from_csr((entries - 1) / tiles, tiles, tiles, std::move(rows), ops::int32_values(col, "col"))};
}

}  // namespace

void bind_patterns(py::module_& m) {
  m.def("pattern_names", [] {
    py::list names;
    for (const auto& entry : pattern::patterns())
      names.append(py::make_tuple(entry.name, entry.summary));
    return names;
  });
  m.def(
      "tiles_per_axis",
      [](const py::object& grid, const py::object& tile) {
        return tuple_of(pattern::tiles_per_axis(grid_from(grid, "grid"), grid_from(tile, "tile")));
      },
      py::arg("grid"), py::arg("tile"));
  m.def(
      "make_pattern",
      [](const std::string& name, const py::object& grid, const py::object& tile, const py::object& window,
         double decay, int64_t min_band) {
        pattern::PatternParams params;
        params.window = grid_from(window, "window", /*all=*/true);
        params.radial = {decay, min_band};
        const auto g = grid_from(grid, "grid"), t = grid_from(tile, "tile");
        const py::gil_scoped_release unlocked;
        const auto mask = pattern::make_pattern(name, g, t, params);
        return std::pair(tensor_of(mask.row_begin), tensor_of(mask.col));
      },
      py::arg("name"), py::arg("grid"), py::arg("tile"), py::arg("window") = "all",
      py::arg("decay") = pattern::RadialOptions{}.decay, py::arg("min_band") = pattern::RadialOptions{}.min_band);
  m.def(
      "mask_from_matrix",
      [](const at::Tensor& visible) {
        TORCH_CHECK_TYPE(visible.scalar_type() == at::kBool, "visible: expected a bool tensor, got ",
                         visible.scalar_type());
        TORCH_CHECK_VALUE(visible.dim() == 2 || visible.dim() == 3, "visible: expected [rows, cols] or [heads, rows, ",
                          "cols], got ", visible.sizes());
        const auto x = (visible.dim() == 2 ? visible.unsqueeze(0) : visible).to(at::kCPU).contiguous();
        const auto* data = reinterpret_cast<const uint8_t*>(x.const_data_ptr<bool>());
        const auto mask = pattern::from_matrix({data, static_cast<size_t>(x.numel())}, x.size(0), x.size(1), x.size(2));
        return std::pair(tensor_of(mask.row_begin), tensor_of(mask.col));
      },
      py::arg("visible"));
  m.def(
      "mask_density",
      [](const py::object& grid, const py::object& tile, const at::Tensor& row_begin, const at::Tensor& col) {
        const auto x = placed(grid_from(grid, "grid"), grid_from(tile, "tile"), row_begin, col);
        return pattern::density(x.mask, x.order);
      },
      py::arg("grid"), py::arg("tile"), py::arg("row_begin"), py::arg("col"));
  m.def(
      "token_tiles",
      [](const py::object& grid, const py::object& tile) {
        const pattern::TileOrder order(grid_from(grid, "grid"), grid_from(tile, "tile"));
        auto tiles = at::empty({order.tokens()}, at::kInt);
        auto* of = tiles.mutable_data_ptr<int32_t>();
        for (int64_t i = 0; i < order.tile_count(); ++i)
          for (int32_t p = order.tile_begin(i); p < order.tile_begin(i + 1); ++p)
            of[order.to_raster()[static_cast<size_t>(p)]] = static_cast<int32_t>(i);
        return tiles;
      },
      py::arg("grid"), py::arg("tile"));
}

}  // namespace fpsa::python
