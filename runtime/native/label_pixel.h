// The label map one cell and one pixel at a time, as a GPU does it: the same values as label_map.h
// by the same arithmetic, without its rows. First every score cell finds its leader; then every
// quad of four cells finds the slots that can win between them, one if it leads clearly at all
// four; last, a pixel looks at the slots of its quad.
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

// The slots that can win between four cells, in their order: none are listed where the first cell's
// leader wins everywhere, and where more could win than there is room for, any slot may.
constexpr std::int32_t kMostRivals = 15;
constexpr std::uint8_t kAnySlot = 255;

struct Rivals {
  std::uint8_t count;  // 0 to kMostRivals, or kAnySlot
  std::uint8_t slots[kMostRivals];
};

constexpr std::int32_t kMostSlots = 256;  // that a byte can name

// The cells around a position: top left, top right, bottom left, bottom right.
struct Quad {
  std::int32_t cells[4];
};

template <typename T>
DEDOS_HOST_DEVICE inline Quad quad_at(const ScoreMap<T>& scores, std::int32_t row,
                                      std::int32_t column) {
  const std::int32_t below = row + 1 < scores.height ? row + 1 : row;
  const std::int32_t right = column + 1 < scores.width ? column + 1 : column;
  return {{row * scores.width + column, row * scores.width + right, below * scores.width + column,
           below * scores.width + right}};
}

// Writes the rivals of the quad whose first cell is `cell`, of at most kMostSlots slots. A slot can
// win only if some corner lifts it above the average of the corners' leaders, because that average,
// blended, is no more than the best of them; the margin is for rounding, as in label_map.cpp.
template <typename T>
DEDOS_HOST_DEVICE inline void find_rivals(const ScoreMap<T>& scores, const Leader* leaders,
                                          std::int32_t cell, Rivals* rivals) {
  const Quad quad = quad_at(scores, cell / scores.width, cell % scores.width);
  Leader corners[4];
  float magnitude = 0.0f;
  for (int i = 0; i < 4; ++i) {
    corners[i] = leaders[quad.cells[i]];
    magnitude = corners[i].magnitude > magnitude ? corners[i].magnitude : magnitude;
  }
  const float margin = rounding_margin(magnitude);
  bool owned = true;
  for (int i = 0; i < 4; ++i) {
    owned =
        owned && corners[i].slot == corners[0].slot && corners[i].best - corners[i].before > margin;
  }
  std::int32_t count = 0;
  if (!owned) {
    float bounds[4];
    for (int i = 0; i < 4; ++i) {
      float sum = 0.0f;
      for (int j = 0; j < 4; ++j) sum += 0.25f * scores.at(corners[j].slot, quad.cells[i]);
      bounds[i] = sum - margin;
    }
    for (std::int32_t k = 0; k < scores.slots && count <= kMostRivals; ++k) {
      bool rises = false;
      for (int i = 0; i < 4; ++i) rises = rises || scores.at(k, quad.cells[i]) > bounds[i];
      if (!rises) continue;
      if (count < kMostRivals) rivals->slots[count] = static_cast<std::uint8_t>(k);
      ++count;
    }
  }
  rivals->count = count > kMostRivals ? kAnySlot : static_cast<std::uint8_t>(count);
}

// The winner of a pixel and its blended score.
struct Winner {
  float score;
  std::int32_t slot;
};

template <typename T>
DEDOS_HOST_DEVICE inline Winner winner_at(const ScoreMap<T>& scores, const Leader* leaders,
                                          const Rivals* rivals, const Tap& down,
                                          const Tap& across) {
  const Quad quad = quad_at(scores, down.index, across.index);
  const Rivals& here = rivals[quad.cells[0]];
  if (here.count == 0) {
    const float top = blend(leaders[quad.cells[0]].best, leaders[quad.cells[1]].best,
                            across.weight0, across.weight1);
    const float bottom = blend(leaders[quad.cells[2]].best, leaders[quad.cells[3]].best,
                               across.weight0, across.weight1);
    return {blend(top, bottom, down.weight0, down.weight1), leaders[quad.cells[0]].slot};
  }
  const std::int32_t count = here.count == kAnySlot ? scores.slots : here.count;
  Winner winner{-INFINITY, 0};
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t k = here.count == kAnySlot ? i : here.slots[i];
    const float top = blend(scores.at(k, quad.cells[0]), scores.at(k, quad.cells[1]),
                            across.weight0, across.weight1);
    const float bottom = blend(scores.at(k, quad.cells[2]), scores.at(k, quad.cells[3]),
                               across.weight0, across.weight1);
    const float rival = blend(top, bottom, down.weight0, down.weight1);
    if (rival > winner.score) winner = {rival, k};
  }
  return winner;
}

// Writes pixel (y, x) and returns the id that it got, kNone16 where none.
template <typename T, typename Id>
DEDOS_HOST_DEVICE inline std::uint16_t label_at(const ScoreMap<T>& scores, const Leader* leaders,
                                                const Rivals* rivals, const SlotTable& slots,
                                                const LabelImage<Id>& image, std::int32_t y,
                                                std::int32_t x) {
  const Tap down = tap_at(y, static_cast<float>(scores.height) / static_cast<float>(image.height),
                          scores.height);
  const Tap across =
      tap_at(x, static_cast<float>(scores.width) / static_cast<float>(image.width), scores.width);
  const Winner winner = winner_at(scores, leaders, rivals, down, across);
  const std::uint16_t id =
      winner.score < slots.thresholds[winner.slot] ? kNone16 : slots.ids[winner.slot];
  const std::size_t pixel = static_cast<std::size_t>(y) * image.width + x;
  image.ids[pixel] = static_cast<Id>(id);
  image.confidence[pixel] = confidence_at(winner.score);
  return id;
}

}  // namespace dedos
