// Label map of a frame from a score map: the arg max over slots of the bilinearly enlarged scores,
// found without enlarging them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dedos {

// scores[slots][height][width], contiguous.
struct Scores {
  const float* values;
  std::int32_t slots;
  std::int32_t height;
  std::int32_t width;
};

// For each slot, the least score that labels a pixel and the class id it stands for (kNone16:
// none).
struct SlotTable {
  const float* thresholds;
  const std::uint16_t* ids;
};

// Both images are [height][width], contiguous. Id is uint8_t or uint16_t.
template <typename Id>
struct LabelImage {
  Id* ids;
  std::uint8_t* confidence;
  std::int32_t height;
  std::int32_t width;
};

// Fills `image` and counts[cells]: pixels per class id, unlabelled ones in the last cell.
// Ties go to the lowest slot. Every id of `slots` is below cells - 1 or kNone16; threads >= 1.
// Throws std::invalid_argument naming slot, row and column when a score is NaN or infinite; what
// was written until then is meaningless.
template <typename Id>
void label_map(const Scores& scores, const SlotTable& slots, const LabelImage<Id>& image,
               std::uint64_t* counts, std::size_t cells, int threads);

}  // namespace dedos
