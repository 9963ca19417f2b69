#include "confusion.h"

#include <cstring>
#include <limits>
#include <vector>

namespace dedos {
namespace {

constexpr std::size_t kBlock = 8;

// Ids as rows or columns of a table with two more of each: one for ids that are not counted, one
// for ids that mean nothing. So no pixel needs a branch, and mistakes are seen once, at the end.
template <typename Id>
class Places {
 public:
  Places(std::int64_t classes, std::int64_t other, std::uint32_t step) {
    constexpr std::size_t kValues = std::size_t{std::numeric_limits<Id>::max()} + 1;
    places_.assign(kValues, static_cast<std::uint32_t>(classes + 1) * step);
    for (std::size_t id = 0; id < kValues && id < static_cast<std::size_t>(classes); ++id) {
      places_[id] = static_cast<std::uint32_t>(id) * step;
    }
    if (other >= 0 && other < static_cast<std::int64_t>(kValues)) {
      places_[other] = static_cast<std::uint32_t>(classes) * step;
    }
  }
  std::uint32_t operator()(Id id) const { return places_[id]; }

 private:
  std::vector<std::uint32_t> places_;
};

// A table for 32 bits would not fit anywhere.
template <>
class Places<std::int32_t> {
 public:
  Places(std::int64_t classes, std::int64_t other, std::uint32_t step)
      : classes_(static_cast<std::uint32_t>(classes)), other_(other), step_(step) {}
  std::uint32_t operator()(std::int32_t id) const {
    const auto value = static_cast<std::uint32_t>(id);
    const std::uint32_t beyond = classes_ + (id == other_ ? 0u : 1u);
    return (id != other_ && value < classes_ ? value : beyond) * step_;
  }

 private:
  std::uint32_t classes_;
  std::int64_t other_;
  std::uint32_t step_;
};

// Whether ids[0 .. kBlock) all equal ids[-1].
template <typename Id>
bool goes_on(const Id* ids) {
  return std::memcmp(ids, ids - 1, kBlock * sizeof(Id)) == 0;
}

template <typename Label, typename Prediction>
void count(const Label* labels, const Prediction* predictions, std::size_t pixels,
           const Places<Label>& row, const Places<Prediction>& column, std::uint32_t* cells) {
  if (pixels == 0) return;
  std::uint32_t last = row(labels[0]) + column(predictions[0]);
  ++cells[last];
  std::size_t at = 1;
  // Label maps are made of regions: most blocks repeat the pixel before, in both maps.
  for (; at + kBlock <= pixels; at += kBlock) {
    if (goes_on(labels + at) && goes_on(predictions + at)) {
      cells[last] += kBlock;
      continue;
    }
    for (std::size_t i = at; i < at + kBlock; ++i) {
      last = row(labels[i]) + column(predictions[i]);
      ++cells[last];
    }
  }
  for (; at < pixels; ++at) ++cells[row(labels[at]) + column(predictions[at])];
}

template <typename Label, typename Prediction>
Mistake first_mistake(const Label* labels, const Prediction* predictions, std::size_t pixels,
                      const ConfusionIds& ids) {
  for (std::size_t at = 0; at < pixels; ++at) {
    const auto label = static_cast<std::int64_t>(labels[at]);
    const auto prediction = static_cast<std::int64_t>(predictions[at]);
    if (label == ids.ignore) continue;
    if (label < 0 || label >= ids.classes) return {at, label, true};
    if (prediction >= ids.classes && prediction != ids.unlabelled) return {at, prediction, false};
  }
  return {pixels, 0, false};
}

}  // namespace

template <typename Label, typename Prediction>
Mistake confusion(const Label* labels, const Prediction* predictions, std::size_t pixels,
                  const ConfusionIds& ids, std::int64_t* matrix) {
  const auto side = static_cast<std::size_t>(ids.classes) + 2;
  const Places<Label> row(ids.classes, ids.ignore, static_cast<std::uint32_t>(side));
  const Places<Prediction> column(ids.classes, ids.unlabelled, 1);
  std::vector<std::uint32_t> cells(side * side);
  count(labels, predictions, pixels, row, column, cells.data());
  bool mistaken = false;
  for (std::size_t i = 0; i < side; ++i) {
    mistaken |= cells[(side - 1) * side + i] != 0;                // a label that means nothing
    mistaken |= i + 2 < side && cells[i * side + side - 1] != 0;  // such a prediction, counted
  }
  if (mistaken) return first_mistake(labels, predictions, pixels, ids);
  for (std::size_t r = 0; r + 2 < side; ++r) {
    for (std::size_t c = 0; c + 1 < side; ++c) *matrix++ += cells[r * side + c];
  }
  return {pixels, 0, false};
}

template Mistake confusion(const std::uint8_t*, const std::uint8_t*, std::size_t,
                           const ConfusionIds&, std::int64_t*);
template Mistake confusion(const std::uint8_t*, const std::uint16_t*, std::size_t,
                           const ConfusionIds&, std::int64_t*);
template Mistake confusion(const std::uint16_t*, const std::uint8_t*, std::size_t,
                           const ConfusionIds&, std::int64_t*);
template Mistake confusion(const std::uint16_t*, const std::uint16_t*, std::size_t,
                           const ConfusionIds&, std::int64_t*);
template Mistake confusion(const std::int32_t*, const std::uint8_t*, std::size_t,
                           const ConfusionIds&, std::int64_t*);
template Mistake confusion(const std::int32_t*, const std::uint16_t*, std::size_t,
                           const ConfusionIds&, std::int64_t*);

}  // namespace dedos
