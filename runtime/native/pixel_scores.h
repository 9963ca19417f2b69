// Scores of single pixels of a frame: of every slot what label_map compares there, to the bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "label_map.h"
#include "label_math.h"

namespace dedos {

// Fills out[count][slots] for a frame of height x width. pixels[count][2]: row and column of each,
// within the frame.
inline void pixel_scores(const Scores& scores, const std::int32_t* pixels, std::size_t count,
                         std::int32_t height, std::int32_t width, float* out) {
  const std::size_t plane = static_cast<std::size_t>(scores.height) * scores.width;
  const float down_scale = static_cast<float>(scores.height) / static_cast<float>(height);
  const float across_scale = static_cast<float>(scores.width) / static_cast<float>(width);
  for (std::size_t i = 0; i < count; ++i) {
    const Tap down = tap_at(pixels[2 * i], down_scale, scores.height);
    const Tap across = tap_at(pixels[2 * i + 1], across_scale, scores.width);
    const std::size_t row = static_cast<std::size_t>(down.index) * scores.width;
    const std::size_t below = down.index + 1 < scores.height ? row + scores.width : row;
    const std::size_t left = across.index;
    const std::size_t right = std::min(across.index + 1, scores.width - 1);
    const float* cells = scores.values;
    for (std::int32_t k = 0; k < scores.slots; ++k, cells += plane) {
      const float top =
          blend(cells[row + left], cells[row + right], across.weight0, across.weight1);
      const float bottom =
          blend(cells[below + left], cells[below + right], across.weight0, across.weight1);
      *out++ = blend(top, bottom, down.weight0, down.weight1);
    }
  }
}

}  // namespace dedos
