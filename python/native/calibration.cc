// Calibration for Python: the dense attention that measures candidates, and the schedule that follows from it.
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "fpsa/accel/calibration.h"
#include "fpsa/base/check.h"
#include "fpsa/schedule/candidates.h"
#include "python/native/conversions.h"

namespace fpsa::python {
namespace {

using accel::Calibration;

schedule::Detail detail_of(const std::string& per) {
  if (per == "phases") return schedule::Detail::kPhases;
  if (per == "layer") return schedule::Detail::kLayers;
  FPSA_CHECK(per == "head", "per: expected \"phases\", \"layer\" or \"head\", got \"", per, '"');
  return schedule::Detail::kHeads;
}

schedule::CandidateList default_list(const py::object& grid, const py::object& tile, const std::string& quant,
                                     const std::string& per) {
  const auto word = std::ranges::find_if(schedule::kQuants, [&](auto q) { return schedule::name(q) == quant; });
  FPSA_CHECK(word != std::ranges::end(schedule::kQuants), "quant: expected \"none\", \"e4m3\" or \"int8\", got \"",
             quant, '"');
  const auto g = grid_from(grid, "grid");
  return schedule::default_candidates(g, tile.is_none() ? schedule::default_tile(g) : grid_from(tile, "tile"), *word,
                                      detail_of(per));
}

schedule::Budget budget_of(const std::optional<double>& density, const std::optional<double>& max_error) {
  FPSA_CHECK(!density || !max_error, "density and max_error: expected one of them, got both");
  FPSA_CHECK(!density || (*density > 0 && *density <= 1), "density: expected a share of the pairs in (0, 1], got ",
             *density);
  FPSA_CHECK(!max_error || (std::isfinite(*max_error) && *max_error > 0),
             "max_error: expected a positive relative distance, got ", *max_error);
  if (max_error) return {schedule::Limit::kError, *max_error};
  return {schedule::Limit::kDensity, density.value_or(schedule::Budget{}.value)};
}

}  // namespace

void bind_calibration(py::module_& m) {
  m.def(
      "check_budget",
      [](const std::optional<double>& density, const std::optional<double>& max_error, const std::string& per) {
        budget_of(density, max_error);
        detail_of(per);
      },
      py::kw_only(), py::arg("density") = py::none(), py::arg("max_error") = py::none(), py::arg("per") = "phases");
  py::class_<schedule::CandidateList>(m, "CandidateList")
      .def_static("parse", &schedule::parse_candidates, py::arg("text"), py::arg("origin") = "candidates")
      .def_static("default", &default_list, py::arg("grid"), py::kw_only(), py::arg("tile") = py::none(),
                  py::arg("quant") = "e4m3", py::arg("per") = "phases")
      .def(
          "check_for_grid",
          [](const schedule::CandidateList& list, const py::object& grid) {
            schedule::check_for_grid(list, grid_from(grid, "grid"));
          },
          py::arg("grid"))
      .def("__len__", [](const schedule::CandidateList& list) { return list.candidates.size(); })
      .def_property_readonly("tile", [](const schedule::CandidateList& list) { return tuple_of(list.tile); })
      .def_property_readonly("descriptions", [](const schedule::CandidateList& list) {
        std::vector<std::string> words;
        for (const auto& candidate : list.candidates)
          words.push_back(schedule::to_string(candidate));
        return words;
      });
  py::class_<Calibration>(m, "Calibration")
      .def(py::init([](const schedule::CandidateList& list, int64_t step_stride, int64_t layer_stride) {
             return std::make_unique<Calibration>(accel::CalibrationOptions{list, step_stride, layer_stride, {}});
           }),
           py::arg("candidates"), py::kw_only(), py::arg("step_stride") = 1, py::arg("layer_stride") = 1)
      .def(
          "attention",
          [](Calibration& self, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const py::object& grid,
             int64_t layer, int64_t layers, int64_t step, int64_t steps) {
            nn::AttentionContext context;
            context.layer = layer;
            context.num_layers = layers;
            context.step = step;
            context.num_steps = steps;
            context.grid = grid_from(grid, "grid");
            const py::gil_scoped_release unlocked;
            return self.self_attention(q, k, v, context);
          },
          py::arg("q"), py::arg("k"), py::arg("v"), py::kw_only(), py::arg("grid"), py::arg("layer"), py::arg("layers"),
          py::arg("step"), py::arg("steps"))
      .def_property_readonly("candidates", &Calibration::list)
      .def("densities", [](const Calibration& self) { return self.table().density; })
      .def("errors",
           [](const Calibration& self) {
             const auto table = self.table();
             auto out = at::empty({static_cast<int64_t>(table.candidates()), table.steps, table.layers, table.heads},
                                  at::kDouble);
             std::copy(table.error.begin(), table.error.end(), out.mutable_data_ptr<double>());
             return out;
           })
      .def(
          "choose",
          [](const Calibration& self, const std::optional<double>& density, const std::optional<double>& max_error,
             const std::string& per, double shift) {
            const auto budget = budget_of(density, max_error);
            const auto detail = detail_of(per);
            const py::gil_scoped_release unlocked;
            const auto table = self.table();
            auto schedule = schedule::to_schedule(table, schedule::choose(table, budget, detail), shift);
            const auto predicted = schedule::predict(table, schedule);
            return std::tuple(std::move(schedule), predicted.error, predicted.density);
          },
          py::kw_only(), py::arg("density") = py::none(), py::arg("max_error") = py::none(), py::arg("per") = "phases",
          py::arg("shift") = schedule::Schedule{}.shift);
}

}  // namespace fpsa::python
