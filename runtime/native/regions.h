// Connected regions of a label map.
#pragma once

#include <cstdint>
#include <vector>

namespace dedos {

// Pixels of one id that hang together over sides and corners.
struct Region {
  std::int64_t id;
  std::int64_t area;
  // The smallest box around them; right and bottom lie beyond.
  std::int64_t left, top, right, bottom;
  // Of all pixels, added up.
  std::int64_t columns, rows;
};

// Fills region_of_pixel, height x width, with the place of each pixel's region in what is returned:
// regions in the order of their first pixels. There are fewer than 2^31 pixels. Id is uint8_t or
// uint16_t.
template <typename Id>
std::vector<Region> connect(const Id* ids, std::int64_t height, std::int64_t width,
                            std::int32_t* region_of_pixel);

}  // namespace dedos
