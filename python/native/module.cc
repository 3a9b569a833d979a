// The extension module fpsattention._native: patterns, schedules, calibration and the kernel table for Python.
//
// Attention itself is not here: it is an operator (torch.ops.fpsa), registered when this module is loaded.
#include <c10/util/Exception.h>
#include <torch/version.h>

#include "fpsa/base/check.h"
#include "fpsa/kernel/cuda/cuda.h"
#include "fpsa/kernel/table.h"
#include "fpsa/ops/environment.h"
#include "fpsa/ops/fork.h"
#include "python/native/conversions.h"

#include <pybind11/stl.h>

namespace fpsa::python {

pattern::Grid grid_from(const py::handle& value, const char* name, bool all) {
  const auto is_all = [&](const py::handle& x) {
    return all && py::isinstance<py::str>(x) && x.cast<std::string>() == "all";
  };
  const char* expected = all ? "\"all\" or (t, y, x) of integers or \"all\"" : "(t, y, x) of integers";
  if (is_all(value)) return pattern::kFullWindow;
  if (!py::isinstance<py::sequence>(value) || py::isinstance<py::str>(value))
    throw py::type_error(join(name, ": expected ", expected, ", got ", py::repr(value).cast<std::string>()));
  const auto items = py::reinterpret_borrow<py::sequence>(value);
  if (items.size() != 3)
    throw py::value_error(join(name, ": expected ", expected, ", got ", py::repr(value).cast<std::string>()));
  int64_t extents[3];
  for (size_t i = 0; i < 3; ++i) {
    const py::object item = items[i];
    if (is_all(item)) {
      extents[i] = pattern::kAllTiles;
    } else if (PyIndex_Check(item.ptr()) && !py::isinstance<py::bool_>(item)) {
      extents[i] = py::reinterpret_steal<py::int_>(PyNumber_Index(item.ptr())).cast<int64_t>();
    } else {
      throw py::type_error(join(name, ": expected ", expected, ", got ", py::repr(value).cast<std::string>()));
    }
  }
  return {extents[0], extents[1], extents[2]};
}

py::tuple tuple_of(const pattern::Grid& grid) {
  const auto axis = [](int64_t n) -> py::object {
    if (n >= pattern::kAllTiles) return py::str("all");
    return py::int_(n);
  };
  return py::make_tuple(axis(grid.t), axis(grid.y), axis(grid.x));
}

void translate_errors() {
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Error& e) {
      PyErr_SetString(PyExc_ValueError, e.what());
    } catch (const c10::ValueError& e) {
      PyErr_SetString(PyExc_ValueError, e.what_without_backtrace());
    } catch (const c10::TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what_without_backtrace());
    } catch (const c10::Error& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what_without_backtrace());
    }
  });
}

void bind_machine(py::module_& m) {
  m.def("isa_levels", [] {
    py::list levels;
    for (const auto isa : kernel::all_isas())
      levels.append(
          py::make_tuple(kernel::isa_name(isa), kernel::isa_requirements(isa), isa <= kernel::detected_isa()));
    return levels;
  });
  m.def("current_isa", [] {
    ops::apply_environment();
    return kernel::isa_name(kernel::current_isa());
  });
  m.def(
      "force_isa",
      [](const std::string& name) {
        ops::apply_environment();  // a later first operator must not put the environment's choice back
        kernel::force_isa(name);
      },
      py::arg("name"));
  m.def("selected_kernels", [] {
    ops::apply_environment();
    return kernel::selected();
  });
  m.def("is_forked", ops::is_forked);
  m.def("cuda_kernels_built", kernel::cuda::built);
  m.def("cuda_refusal", [](int device) { return kernel::cuda::unavailable_reason(device); }, py::arg("device"));
}

}  // namespace fpsa::python

PYBIND11_MODULE(_native, m) {
  using namespace fpsa::python;
  m.attr("version") = FPSA_VERSION;
  m.attr("torch_version") = TORCH_VERSION;
  translate_errors();
  bind_machine(m);
  bind_patterns(m);
  bind_schedules(m);
  bind_calibration(m);
}
