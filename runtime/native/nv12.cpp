#include "nv12.h"

#include <cstddef>

#include "multiversion.h"

namespace dedos {

namespace {

DEDOS_MULTIVERSION
void convert_row(const std::uint8_t* luma, const std::uint8_t* chroma, std::int32_t width,
                 const YuvMatrix& given, std::uint8_t* out) {
  const YuvMatrix matrix = given;  // its own memory, which `out` cannot be part of
  for (std::int32_t x = 0; x < width / 2; ++x) {
    const std::uint8_t u = chroma[2 * x], v = chroma[2 * x + 1];
    yuv_to_bgr(matrix, luma[2 * x], u, v, out + 6 * x);
    yuv_to_bgr(matrix, luma[2 * x + 1], u, v, out + 6 * x + 3);
  }
}

}  // namespace

void nv12_to_bgr(const Nv12Image& image, std::uint8_t* out) {
  for (std::int32_t y = 0; y < image.height; ++y) {
    convert_row(image.luma + y * image.luma_pitch, image.chroma + (y / 2) * image.chroma_pitch,
                image.width, image.matrix, out + static_cast<std::size_t>(y) * image.width * 3);
  }
}

}  // namespace dedos
