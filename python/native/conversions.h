// Grids and errors between Python and C++.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "fpsa/pattern/grid.h"

namespace fpsa::python {

namespace py = pybind11;

/// A sequence of three integers as (T, Y, X). Where `all` is allowed, the word "all" stands for the whole grid, or in
/// the place of a number for that axis.
///   Errors    TypeError for another kind of value, ValueError for another length
pattern::Grid grid_from(const py::handle& value, const char* name, bool all = false);

/// (t, y, x). An axis of kAllTiles is the word "all".
py::tuple tuple_of(const pattern::Grid& grid);

/// fpsa::Error becomes ValueError; torch's errors keep their kind and lose their C++ backtrace.
void translate_errors();

void bind_machine(py::module_& m);
void bind_patterns(py::module_& m);
void bind_schedules(py::module_& m);
void bind_calibration(py::module_& m);

}  // namespace fpsa::python
