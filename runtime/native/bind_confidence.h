// The part of the Python module that reads confidences off curves.
#pragma once

#include <nanobind/nanobind.h>

namespace dedos {

void bind_confidence(nanobind::module_& module);

}  // namespace dedos
