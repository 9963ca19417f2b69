// Regions of label maps and their outlines, as Python has them.
#pragma once

#include <nanobind/nanobind.h>

namespace dedos {

void bind_regions(nanobind::module_& module);

}  // namespace dedos
