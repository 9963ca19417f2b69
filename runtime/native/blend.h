// Score maps of the windows of a frame, blended into one of the whole frame.
#pragma once

#include <cstdint>

#include "label_map.h"

namespace dedos {

// How a window lies in the blended map, along one axis: for each of `count` cells the place in the
// window's score map, in its cells, and the weight there. Cells of weight 0 take nothing. A
// coordinate is in [0, cells - 1] of the score map, whole at the centres of its cells.
struct WindowAxis {
  const double* coordinates;
  const float* weights;
  std::int32_t count;
};

// Adds to blended[slots][down.count][across.count] the bilinear value at (down, across) times the
// product of the weights. Of equal inputs every number of threads >= 1 makes the same bits.
void blend_window(const Scores& scores, const WindowAxis& down, const WindowAxis& across,
                  float* blended, int threads);

}  // namespace dedos
