// Resizing an image to BGR of the network size, one output pixel at a time: the mean over the area
// that a pixel covers where the image shrinks along both axes, else bilinear. Both keep the edges
// of source and output together, as OpenCV does; levels differ from OpenCV's by at most one,
// because its bilinear weights have 11 bits. A source is whatever gives the BGR levels of a pixel
// by `bgr_at(row, column, level)`: an NV12 image is converted pixel by pixel on the way, so that
// the result is that of converting it whole and then resizing it, to the bit.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "host_device.h"
#include "label_math.h"

namespace dedos {

constexpr int kChannels = 3;

// uint8 [height][width][3], blue first; bytes from row to row, from pixel to pixel and from blue to
// green to red, each of which may be negative: RGB is BGR that begins at blue and counts back.
struct StridedImage {
  const std::uint8_t* blue;
  std::int32_t height;
  std::int32_t width;
  std::int64_t pitch;
  std::int64_t step;
  std::int64_t channel;

  DEDOS_HOST_DEVICE void bgr_at(std::int32_t row, std::int32_t column, std::uint8_t* level) const {
    const std::uint8_t* pixel = blue + row * pitch + column * step;
    for (int c = 0; c < kChannels; ++c) level[c] = pixel[c * channel];
  }
};

// What an output coordinate covers along one axis: source pixels first .. last, the first and the
// last of them in part.
struct Cover {
  std::int32_t first, last;
  float first_weight, last_weight;  // in pixels; those between weigh 1
};

DEDOS_HOST_DEVICE inline Cover cover_at(std::int32_t output, std::int32_t source,
                                        std::int32_t outputs) {
  // Exact in integers: the output covers [output * source, (output + 1) * source) / outputs.
  const std::int64_t begin = static_cast<std::int64_t>(output) * source;
  const std::int64_t end = begin + source;
  Cover cover;
  cover.first = static_cast<std::int32_t>(begin / outputs);
  cover.last = static_cast<std::int32_t>((end - 1) / outputs);
  const float scale = static_cast<float>(outputs);
  cover.first_weight =
      static_cast<float>((cover.first + std::int64_t{1}) * outputs - begin) / scale;
  cover.last_weight =
      static_cast<float>(end - static_cast<std::int64_t>(cover.last) * outputs) / scale;
  if (cover.first == cover.last) cover.first_weight = static_cast<float>(source) / scale;
  return cover;
}

DEDOS_HOST_DEVICE inline float weight_in(const Cover& cover, std::int32_t at) {
  if (at == cover.first) return cover.first_weight;
  return at == cover.last ? cover.last_weight : 1.0f;
}

// Half to even, as OpenCV rounds; values are in [0, 255] up to rounding.
DEDOS_HOST_DEVICE inline std::uint8_t to_level(float value) {
  float clipped = value > 0.0f ? value : 0.0f;
  clipped = clipped < 255.0f ? clipped : 255.0f;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(clipped + 0x1.8p23f - 0x1.8p23f));
}

template <typename Source>
DEDOS_HOST_DEVICE inline void area_at(const Source& source, std::int32_t y, std::int32_t x,
                                      std::int32_t height, std::int32_t width,
                                      std::uint8_t* level) {
  const Cover down = cover_at(y, source.height, height);
  const Cover across = cover_at(x, source.width, width);
  float sum[kChannels] = {0.0f, 0.0f, 0.0f};
  for (std::int32_t row = down.first; row <= down.last; ++row) {
    float part[kChannels] = {0.0f, 0.0f, 0.0f};
    for (std::int32_t column = across.first; column <= across.last; ++column) {
      const float weight = weight_in(across, column);
      std::uint8_t pixel[kChannels];
      source.bgr_at(row, column, pixel);
      for (int c = 0; c < kChannels; ++c) {
        part[c] = std::fma(static_cast<float>(pixel[c]), weight, part[c]);
      }
    }
    const float weight = weight_in(down, row);
    for (int c = 0; c < kChannels; ++c) sum[c] = std::fma(part[c], weight, sum[c]);
  }
  const float area = (static_cast<float>(source.height) / static_cast<float>(height)) *
                     (static_cast<float>(source.width) / static_cast<float>(width));
  for (int c = 0; c < kChannels; ++c) level[c] = to_level(sum[c] / area);
}

template <typename Source>
DEDOS_HOST_DEVICE inline void bilinear_at(const Source& source, std::int32_t y, std::int32_t x,
                                          std::int32_t height, std::int32_t width,
                                          std::uint8_t* level) {
  const Tap down =
      tap_at(y, static_cast<float>(source.height) / static_cast<float>(height), source.height);
  const Tap across =
      tap_at(x, static_cast<float>(source.width) / static_cast<float>(width), source.width);
  const std::int32_t below = down.index + 1 < source.height ? down.index + 1 : down.index;
  const std::int32_t right = across.index + 1 < source.width ? across.index + 1 : across.index;
  std::uint8_t corner[4][kChannels];
  source.bgr_at(down.index, across.index, corner[0]);
  source.bgr_at(down.index, right, corner[1]);
  source.bgr_at(below, across.index, corner[2]);
  source.bgr_at(below, right, corner[3]);
  for (int c = 0; c < kChannels; ++c) {
    const float upper = blend(static_cast<float>(corner[0][c]), static_cast<float>(corner[1][c]),
                              across.weight0, across.weight1);
    const float lower = blend(static_cast<float>(corner[2][c]), static_cast<float>(corner[3][c]),
                              across.weight0, across.weight1);
    level[c] = to_level(blend(upper, lower, down.weight0, down.weight1));
  }
}

template <typename Source>
DEDOS_HOST_DEVICE inline void resize_at(const Source& source, std::int32_t y, std::int32_t x,
                                        std::int32_t height, std::int32_t width,
                                        std::uint8_t* level) {
  if (height <= source.height && width <= source.width) {
    area_at(source, y, x, height, width, level);
  } else {
    bilinear_at(source, y, x, height, width, level);
  }
}

}  // namespace dedos
