// The part of the Python module that ends a process whose parent is gone.
#pragma once

#include <nanobind/nanobind.h>

namespace dedos {

void bind_parent(nanobind::module_& module);

}  // namespace dedos
