// Scores that are stable in time: those of the frame before are moved along with the picture, and
// blended into this frame's where the moved picture shows what this one does.
#pragma once

#include <cstdint>

#include "label_map.h"

namespace dedos {

constexpr std::int32_t kScoreLanes = 8;  // scores of a cell blended together

// Two pictures, [height][width], and how one came from the other: pixel (y, x) of `grey` was at
// (y + flow[y][x][1], x + flow[y][x][0]) of `past_grey`.
struct Motion {
  const std::uint8_t* grey;
  const std::uint8_t* past_grey;
  const float* flow;
  std::int32_t height;
  std::int32_t width;
};

// Number of scores that a cell has in a Past: all slots, then zeros up to a whole number of lanes.
constexpr std::int32_t past_stride(std::int32_t slots) {
  return (slots + kScoreLanes - 1) / kScoreLanes * kScoreLanes;
}

// Writes scores of one frame as the past of the next: past[height][width][past_stride(slots)].
void remember(const Scores& scores, float* past);

// Fills smoothed[slots][height][width] and `next`, the same as a past, and returns the part of the
// cells, in [0, 1], whose picture the motion explains. Where that is less than kLeastExplained, the
// picture was cut: `smoothed` are the scores themselves. So is a cell that came from outside of the
// picture or shows something else, and one whose scores say another thing altogether. In `scores` a
// NaN or an infinity stays what it is. The arrays share no memory.
float stabilise(const Scores& scores, const Motion& motion, const float* past, float* smoothed,
                float* next);

}  // namespace dedos
