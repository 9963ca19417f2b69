// NV12, as cameras and decoders give it: a plane of luma and a plane of chroma pairs at half the
// size. A pixel is converted to BGR in fixed point of 20 bits, as OpenCV does, whose levels for
// BT.601 in limited range come out to the bit.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dedos {

// What luma and chroma weigh, times 2^20; luma counts from `black` on.
struct YuvMatrix {
  std::int32_t black;
  std::int32_t luma;
  std::int32_t red_v;
  std::int32_t green_u, green_v;
  std::int32_t blue_u;
};

constexpr int kYuvBits = 20;
constexpr int kYuvMatrices = 4;

// BT.601 and BT.709, each in limited range (luma 16 to 235) and in full range.
DEDOS_HOST_DEVICE inline YuvMatrix yuv_matrix(int which) {
  switch (which) {
    case 0:
      return {16, 1220542, 1673527, -409993, -852492, 2116026};
    case 1:
      return {0, 1048576, 1470104, -360853, -748826, 1858077};
    case 2:
      return {16, 1220945, 1879825, -223607, -558796, 2215014};
    default:
      return {0, 1048576, 1651297, -196424, -490864, 1945738};
  }
}

DEDOS_HOST_DEVICE inline std::uint8_t to_byte(std::int32_t fixed) {
  const std::int32_t value = fixed >> kYuvBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

DEDOS_HOST_DEVICE inline void yuv_to_bgr(const YuvMatrix& matrix, std::uint8_t y, std::uint8_t u,
                                         std::uint8_t v, std::uint8_t* bgr) {
  constexpr std::int32_t kHalf = 1 << (kYuvBits - 1);
  const std::int32_t above = y > matrix.black ? y - matrix.black : 0;
  const std::int32_t luma = above * matrix.luma + kHalf;
  const std::int32_t cb = u - 128, cr = v - 128;
  bgr[0] = to_byte(luma + matrix.blue_u * cb);
  bgr[1] = to_byte(luma + matrix.green_u * cb + matrix.green_v * cr);
  bgr[2] = to_byte(luma + matrix.red_v * cr);
}

// luma uint8 [height][width] and chroma uint8 [height / 2][width / 2][2]; bytes from row to row.
struct Nv12Image {
  const std::uint8_t* luma;
  const std::uint8_t* chroma;
  std::int32_t height;
  std::int32_t width;
  std::int64_t luma_pitch;
  std::int64_t chroma_pitch;
  YuvMatrix matrix;

  DEDOS_HOST_DEVICE void bgr_at(std::int32_t row, std::int32_t column, std::uint8_t* level) const {
    const std::uint8_t* pair = chroma + (row >> 1) * chroma_pitch + (column & ~1);
    yuv_to_bgr(matrix, luma[row * luma_pitch + column], pair[0], pair[1], level);
  }
};

}  // namespace dedos
