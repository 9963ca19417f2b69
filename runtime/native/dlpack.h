// DLPack capsules: memory of other libraries, on any device, taken over and given out.
#pragma once

#include <nanobind/nanobind.h>

namespace dedos {

void bind_dlpack(nanobind::module_& module);

}  // namespace dedos
