// Pixels of a label map and a prediction counted by (label, prediction), in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dedos {

// What the ids of two maps mean: labels and predictions in [0, classes), labels that are `ignore`
// (not counted), predictions that are `unlabelled` (no class). Everything else is a mistake.
struct ConfusionIds {
  std::int64_t classes;
  std::int64_t ignore;
  std::int64_t unlabelled;
};

// Where counting found the first id that means nothing; `at` is the number of pixels without one.
struct Mistake {
  std::size_t at;
  std::int64_t value;
  bool is_label;
};

// Adds the pixels of one image to matrix[classes][classes + 1], the last column for no class, or
// leaves it alone when there is a mistake. A prediction under an ignored label is not looked at.
// Label is uint8_t, uint16_t or int32_t, Prediction uint8_t or uint16_t; pixels < 2^32.
template <typename Label, typename Prediction>
Mistake confusion(const Label* labels, const Prediction* predictions, std::size_t pixels,
                  const ConfusionIds& ids, std::int64_t* matrix);

}  // namespace dedos
