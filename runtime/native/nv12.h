// A whole NV12 image as BGR, on the CPU.
#pragma once

#include <cstdint>

#include "nv12_pixel.h"

namespace dedos {

// Writes uint8 [height][width][3], contiguous; the same levels as Nv12Image::bgr_at.
void nv12_to_bgr(const Nv12Image& image, std::uint8_t* out);

}  // namespace dedos
