// Python binding of blend.h.
#pragma once

#include <nanobind/nanobind.h>

namespace dedos {

void bind_blend(nanobind::module_& module);

}  // namespace dedos
