// The label map one cell and one pixel at a time, as a GPU does it: the same values as label_map.h
// by the same arithmetic, without its rows. First every score cell finds its leader; then a pixel
// whose four cells share a clear leader is done, and only the others look at all slots.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "host_device.h"
#include "label_map.h"
#include "label_math.h"

namespace dedos {

// Bits of an IEEE half. Every half is a float, so nothing is rounded.
struct Half {
  std::uint16_t bits;
};

DEDOS_HOST_DEVICE inline float as_float(float value) { return value; }

DEDOS_HOST_DEVICE inline float as_float(Half value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t rest = value.bits & 0x7fffu;
  union {
    std::uint32_t bits;
    float value;
  } result;
  if (rest >= 0x7c00u) {
    result.bits = 0x7f800000u | (rest & 0x3ffu) << 13;  // infinity or NaN
  } else {
    // 2^112 moves the exponent into place, and makes normal numbers of subnormal ones.
    result.bits = rest << 13;
    result.value *= 0x1p112f;
  }
  result.bits |= sign;
  return result.value;
}

// scores[slots][height][width] of float or Half, contiguous.
template <typename T>
struct ScoreMap {
  const T* values;
  std::int32_t slots;
  std::int32_t height;
  std::int32_t width;

  DEDOS_HOST_DEVICE float at(std::int32_t slot, std::int32_t cell) const {
    const std::size_t plane = static_cast<std::size_t>(height) * width;
    return as_float(values[slot * plane + cell]);
  }
};

// What is known of a cell: its best slot, its score there, the best score of earlier slots
// (rounding may make a tie, and those would win it), and the largest magnitude of all its scores.
struct Leader {
  float best;
  float before;
  float magnitude;
  std::int32_t slot;
};

// The first slot of a cell whose score is NaN or infinite is written to `broken`, else -1.
template <typename T>
DEDOS_HOST_DEVICE inline Leader leader_at(const ScoreMap<T>& scores, std::int32_t cell,
                                          std::int32_t* broken) {
  Leader leader{-INFINITY, -INFINITY, 0.0f, 0};
  *broken = -1;
  for (std::int32_t k = 0; k < scores.slots; ++k) {
    const float value = scores.at(k, cell);
    const float magnitude = std::fabs(value);
    if (!(magnitude < INFINITY) && *broken < 0) *broken = k;
    leader.magnitude = magnitude > leader.magnitude ? magnitude : leader.magnitude;
    if (value > leader.best) {
      leader.before = leader.best;
      leader.best = value;
      leader.slot = k;
    }
  }
  return leader;
}

// The winner of a pixel and its blended score.
struct Winner {
  float score;
  std::int32_t slot;
};

DEDOS_HOST_DEVICE inline bool leads_clearly(const Leader& leader, std::int32_t slot, float margin) {
  return leader.slot == slot && leader.best - leader.before > margin;
}

template <typename T>
DEDOS_HOST_DEVICE inline Winner winner_at(const ScoreMap<T>& scores, const Leader* leaders,
                                          const Tap& down, const Tap& across) {
  const std::int32_t below = down.index + 1 < scores.height ? down.index + 1 : down.index;
  const std::int32_t right = across.index + 1 < scores.width ? across.index + 1 : across.index;
  const std::int32_t cells[4] = {down.index * scores.width + across.index,
                                 down.index * scores.width + right,
                                 below * scores.width + across.index, below * scores.width + right};
  const Leader corners[4] = {leaders[cells[0]], leaders[cells[1]], leaders[cells[2]],
                             leaders[cells[3]]};
  float magnitude = 0.0f;
  for (int i = 0; i < 4; ++i) {
    magnitude = corners[i].magnitude > magnitude ? corners[i].magnitude : magnitude;
  }
  const float margin = rounding_margin(magnitude);
  const std::int32_t first = corners[0].slot;
  if (leads_clearly(corners[0], first, margin) && leads_clearly(corners[1], first, margin) &&
      leads_clearly(corners[2], first, margin) && leads_clearly(corners[3], first, margin)) {
    const float top = blend(corners[0].best, corners[1].best, across.weight0, across.weight1);
    const float bottom = blend(corners[2].best, corners[3].best, across.weight0, across.weight1);
    return {blend(top, bottom, down.weight0, down.weight1), first};
  }
  Winner winner{-INFINITY, 0};
  for (std::int32_t k = 0; k < scores.slots; ++k) {
    const float top =
        blend(scores.at(k, cells[0]), scores.at(k, cells[1]), across.weight0, across.weight1);
    const float bottom =
        blend(scores.at(k, cells[2]), scores.at(k, cells[3]), across.weight0, across.weight1);
    const float rival = blend(top, bottom, down.weight0, down.weight1);
    if (rival > winner.score) winner = {rival, k};
  }
  return winner;
}

// Writes pixel (y, x) and returns the id that it got, kNone16 where none.
template <typename T, typename Id>
DEDOS_HOST_DEVICE inline std::uint16_t label_at(const ScoreMap<T>& scores, const Leader* leaders,
                                                const SlotTable& slots, const LabelImage<Id>& image,
                                                std::int32_t y, std::int32_t x) {
  const Tap down = tap_at(y, static_cast<float>(scores.height) / static_cast<float>(image.height),
                          scores.height);
  const Tap across =
      tap_at(x, static_cast<float>(scores.width) / static_cast<float>(image.width), scores.width);
  const Winner winner = winner_at(scores, leaders, down, across);
  const std::uint16_t id =
      winner.score < slots.thresholds[winner.slot] ? kNone16 : slots.ids[winner.slot];
  const std::size_t pixel = static_cast<std::size_t>(y) * image.width + x;
  image.ids[pixel] = static_cast<Id>(id);
  image.confidence[pixel] = confidence_at(winner.score);
  return id;
}

}  // namespace dedos
