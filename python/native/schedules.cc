// Schedules for Python, and what they make of a layer and step.
#include <pybind11/operators.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <string>

#include "fpsa/accel/head_runs.h"
#include "fpsa/accel/scheduled.h"
#include "fpsa/base/check.h"
#include "fpsa/schedule/schedule.h"
#include "fpsa/train/phases.h"
#include "python/native/conversions.h"

namespace fpsa::python {
namespace {

using schedule::IndexRange;
using schedule::Override;
using schedule::Phase;
using schedule::Quant;
using schedule::Schedule;

Quant quant_from(const std::string& word, const char* name) {
  const auto at = std::ranges::find_if(schedule::kQuants, [&](Quant quant) { return schedule::name(quant) == word; });
  FPSA_CHECK(at != std::ranges::end(schedule::kQuants), name, ": expected \"none\", \"e4m3\" or \"int8\", got \"", word,
             '"');
  return *at;
}

// Indices and (first, last) pairs, in any order.
std::vector<IndexRange> ranges_from(const py::handle& value, const char* name, int64_t origin) {
  std::vector<IndexRange> ranges;
  if (value.is_none()) return ranges;
  if (!py::isinstance<py::sequence>(value) || py::isinstance<py::str>(value))
    throw py::type_error(
        join(name, ": expected a list of indices and (first, last) pairs, got ", py::repr(value).cast<std::string>()));
  for (const auto& item : value) {
    if (py::isinstance<py::int_>(item)) {
      const auto index = item.cast<int64_t>() - origin;
      ranges.push_back({index, index});
      continue;
    }
    if (!py::isinstance<py::sequence>(item) || py::len(item) != 2)
      throw py::type_error(join(name, ": expected a list of indices and (first, last) pairs, got ",
                                py::repr(value).cast<std::string>()));
    const auto pair = item.cast<std::pair<int64_t, int64_t>>();
    ranges.push_back({pair.first - origin, pair.second - origin});
  }
  return ranges;
}

py::list list_of(const std::vector<IndexRange>& ranges, int64_t origin) {
  py::list out;
  for (const auto& range : ranges)
    out.append(py::make_tuple(range.first + origin, range.last + origin));
  return out;
}

std::string repr_of(const py::object& value) {
  return py::repr(value).cast<std::string>();
}

py::object optional_tuple(const std::optional<pattern::Grid>& grid) {
  return grid ? py::object(tuple_of(*grid)) : py::object(py::none());
}

Override override_from(const py::object& layers, const py::object& heads, const py::object& phases,
                       const std::optional<std::string>& pattern, const py::object& granularity,
                       const py::object& window, const std::optional<std::string>& quant) {
  Override change;
  change.layers = ranges_from(layers, "layers", 0);
  change.heads = ranges_from(heads, "heads", 0);
  change.phases = ranges_from(phases, "phases", 1);  // people count phases from 1, as the TOML text does
  change.pattern = pattern;
  if (!granularity.is_none()) change.granularity = grid_from(granularity, "granularity");
  if (!window.is_none()) change.window = grid_from(window, "window", /*all=*/true);
  if (quant) change.quant = quant_from(*quant, "quant");
  return change;
}

Schedule schedule_from(std::vector<Phase> phases, const py::object& tile, double shift, const std::string& feed_forward,
                       std::vector<Override> overrides) {
  Schedule s;
  s.phases = std::move(phases);
  s.tile = grid_from(tile, "tile");
  s.shift = shift;
  s.feed_forward = quant_from(feed_forward, "feed_forward");
  s.overrides = std::move(overrides);
  schedule::validate(s);
  return s;
}

py::dict setting_of(const Schedule& s, int phase, int64_t layer, int64_t head) {
  FPSA_CHECK(phase >= 0 && phase < static_cast<int>(s.phases.size()), "phase: expected 0 to ", s.phases.size() - 1,
             ", got ", phase);
  const auto setting = schedule::setting_in_phase(s, phase, layer, head);
  py::dict out;
  out["pattern"] = setting.pattern;
  out["granularity"] = tuple_of(setting.granularity);
  out["window"] = tuple_of(setting.window);
  out["quant"] = schedule::name(setting.quant);
  out["override"] =
      setting.override_index < 0 ? py::object(py::none()) : py::object(py::int_(setting.override_index + 1));
  return out;
}

py::list explain(const Schedule& s, const py::object& grid, int64_t steps, int64_t layers, int64_t heads, int64_t dim,
                 const std::string& dtype, const py::object& wanted, const std::string& device) {
  static const std::map<std::string, at::ScalarType> types = {
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  const auto type = types.find(dtype);
  FPSA_CHECK(type != types.end(), "dtype: expected float32, bfloat16 or float16, got ", dtype);
  FPSA_CHECK(steps >= 1 && layers >= 1 && heads >= 1, "steps, layers and heads: expected 1 or more, got ", steps, ", ",
             layers, ", ", heads);
  nn::AttentionContext context;
  context.grid = grid_from(grid, "grid");
  context.num_layers = layers;
  context.num_steps = steps;
  py::list out;
  for (int64_t step = 0; step < steps; ++step) {
    if (!wanted.is_none() && !wanted.contains(py::int_(step))) continue;
    for (int64_t layer = 0; layer < layers; ++layer) {
      context.step = step;
      context.layer = layer;
      const auto entry = accel::explain_scheduled(s, context, heads, dim, type->second, at::Device(device));
      py::dict one;
      one["step"] = entry.step;
      one["layer"] = entry.layer;
      one["kernel"] = entry.kernel;
      one["isa"] = entry.isa;
      one["coder"] = entry.coder;
      one["pattern"] = entry.pattern;
      one["density"] = entry.density;
      one["granularity"] = entry.granularity;
      one["reason"] = entry.reason;
      out.append(std::move(one));
    }
  }
  return out;
}

}  // namespace

void bind_schedules(py::module_& m) {
  py::class_<Phase>(
      m, "Phase",
      R"(Settings for the steps whose fraction step / steps lies below `until` (and not in an earlier phase).

Args:
    until: in (0, 1]; the last phase of a schedule has 1.0.
    granularity: (t, y, x) tokens that share one scale of Q and of K; per axis a multiple or a divisor of the tile.
    window: (t, y, x) tiles that a query tile sees; "all" for an axis or for all of them.
    quant: "none", "e4m3" or "int8".

Errors: TypeError, ValueError: argument, expected, received. Source: schedule::Phase.)")
      .def(
          py::init([](double until, const py::object& granularity, const py::object& window, const std::string& quant) {
            return Phase{until, grid_from(granularity, "granularity"), grid_from(window, "window", true),
                         quant_from(quant, "quant")};
          }),
          py::arg("until"), py::arg("granularity"), py::arg("window") = "all", py::arg("quant") = "e4m3")
      .def("__repr__",
           [](const Phase& p) {
             return join("Phase(until=", repr_of(py::float_(p.until)),
                         ", granularity=", repr_of(tuple_of(p.granularity)), ", window=", repr_of(tuple_of(p.window)),
                         ", quant='", schedule::name(p.quant), "')");
           })
      .def_readonly("until", &Phase::until)
      .def_property_readonly("granularity", [](const Phase& p) { return tuple_of(p.granularity); })
      .def_property_readonly("window", [](const Phase& p) { return tuple_of(p.window); })
      .def_property_readonly("quant", [](const Phase& p) { return schedule::name(p.quant); })
      .def(py::self == py::self);
  py::class_<Override>(m, "Override",
                       R"(Replaces settings where all three selectors match; one that is left out matches everything.

Args:
    layers, heads: indices from 0 and (first, last) pairs, both included.
    phases: likewise, from 1, as in the TOML text.
    pattern: "sta", "dense" or "radial".
    granularity, window, quant: as in a Phase. A window also undoes an earlier override's pattern.

Later overrides win over earlier ones, field by field. Errors: TypeError, ValueError. Source: schedule::Override.)")
      .def(py::init(&override_from), py::kw_only(), py::arg("layers") = py::none(), py::arg("heads") = py::none(),
           py::arg("phases") = py::none(), py::arg("pattern") = py::none(), py::arg("granularity") = py::none(),
           py::arg("window") = py::none(), py::arg("quant") = py::none())
      .def("__repr__",
           [](const Override& o) {
             std::string words;
             const auto add = [&](const char* name, const py::object& value) {
               if (!value.is_none() && py::bool_(value))
                 words += join(words.empty() ? "" : ", ", name, '=', repr_of(value));
             };
             add("layers", list_of(o.layers, 0));
             add("heads", list_of(o.heads, 0));
             add("phases", list_of(o.phases, 1));
             if (o.pattern) add("pattern", py::str(*o.pattern));
             add("granularity", optional_tuple(o.granularity));
             add("window", optional_tuple(o.window));
             if (o.quant) add("quant", py::str(std::string(schedule::name(*o.quant))));
             return join("Override(", words, ')');
           })
      .def_property_readonly("layers", [](const Override& o) { return list_of(o.layers, 0); })
      .def_property_readonly("heads", [](const Override& o) { return list_of(o.heads, 0); })
      .def_property_readonly("phases", [](const Override& o) { return list_of(o.phases, 1); })
      .def_readonly("pattern", &Override::pattern)
      .def_property_readonly("granularity", [](const Override& o) { return optional_tuple(o.granularity); })
      .def_property_readonly("window", [](const Override& o) { return optional_tuple(o.window); })
      .def_property_readonly("quant",
                             [](const Override& o) -> py::object {
                               if (!o.quant) return py::none();
                               return py::str(std::string(schedule::name(*o.quant)));
                             })
      .def(py::self == py::self);
  py::class_<Schedule>(m, "Schedule")
      .def(py::init(&schedule_from), py::arg("phases"), py::kw_only(), py::arg("tile") = py::make_tuple(6, 8, 8),
           py::arg("shift") = Schedule{}.shift, py::arg("feed_forward") = "none",
           py::arg("overrides") = std::vector<Override>{})
      .def_static("parse", &schedule::parse_toml, py::arg("text"), py::arg("origin") = "schedule")
      .def_static("default", &schedule::default_schedule)
      .def("to_toml", &schedule::to_toml)
      .def_readonly("version", &Schedule::version)
      .def_readonly("shift", &Schedule::shift)
      .def_readonly("phases", &Schedule::phases)
      .def_readonly("overrides", &Schedule::overrides)
      .def_property_readonly("tile", [](const Schedule& s) { return tuple_of(s.tile); })
      .def_property_readonly("feed_forward", [](const Schedule& s) { return schedule::name(s.feed_forward); })
      .def_property_readonly("has_e4m3", &accel::has_e4m3)
      .def(
          "check_for_grid",
          [](const Schedule& s, const py::object& grid) { schedule::check_for_grid(s, grid_from(grid, "grid")); },
          py::arg("grid"))
      .def("check_for_model", &schedule::check_for_model, py::arg("layers"), py::arg("heads"))
      .def("phase_at", &schedule::phase_at, py::arg("step"), py::arg("steps"))
      .def(
          "step_of_level",
          [](const Schedule& s, double sigma, int64_t steps) {
            return train::StepLevels(s.shift, steps).step_of(sigma);
          },
          py::arg("sigma"), py::arg("steps") = train::kDefaultSteps)
      .def("setting", &setting_of, py::arg("phase"), py::arg("layer"), py::arg("head"))
      .def("explain", &explain, py::arg("grid"), py::kw_only(), py::arg("steps"), py::arg("layers"), py::arg("heads"),
           py::arg("head_dim"), py::arg("dtype") = "bfloat16", py::arg("only_steps") = py::none(),
           py::arg("device") = "cpu")
      .def(py::self == py::self);
  m.attr("DEFAULT_STEPS") = train::kDefaultSteps;
  m.attr("METADATA_KEY") = std::string(schedule::kMetadataKey);
}

}  // namespace fpsa::python
