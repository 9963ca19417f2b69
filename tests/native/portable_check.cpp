// Label maps, confusion matrices, steadied and blended scores of made-up inputs, the first two
// checked against plain functions, and printed as hashes: the same program must print the same on
// every processor.
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <vector>

#include "blend.h"
#include "confusion.h"
#include "label_map.h"
#include "label_pixel.h"
#include "stabilise.h"

namespace {

// A small generator of its own: the standard's distributions differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2654435761u + 1) {}

  std::uint32_t bits() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<std::uint32_t>(state_ >> 33);
  }

  int below(int limit) { return static_cast<int>(bits() % static_cast<std::uint32_t>(limit)); }

  float unit() { return static_cast<float>(bits() & 0xffffff) * 0x1p-24f; }

 private:
  std::uint64_t state_;
};

class Hash {
 public:
  template <typename T>
  void add(const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (std::size_t i = 0; i < values.size() * sizeof(T); ++i) {
      value_ = (value_ ^ bytes[i]) * 1099511628211ull;
    }
  }

  unsigned long long value() const { return value_; }

 private:
  std::uint64_t value_ = 14695981039346656037ull;
};

template <typename Id>
bool label_case(Random& random, Hash& hash, int threads) {
  const int slots = 1 + random.below(40), height = 1 + random.below(20),
            width = 1 + random.below(20);
  const int out_height = 1 + random.below(90), out_width = 1 + random.below(90);
  // Counts may have cells that no id of the image can name.
  constexpr int kSpare[] = {0, 0, 249, 250, 251, 252, 300, 70000};
  const int names = 5, cells = names + 1 + kSpare[random.below(8)], plane = height * width;
  std::vector<float> values(static_cast<std::size_t>(slots) * plane), thresholds(slots);
  std::vector<std::uint16_t> ids(slots);
  const bool ties = random.below(3) == 0;
  for (float& value : values) {
    value = ties ? static_cast<float>(random.below(4)) * 0.25f : random.unit();
  }
  for (int k = 0; k < slots; ++k) {
    thresholds[k] = random.unit() * 0.8f;
    ids[k] =
        random.below(6) == 0 ? dedos::kNone16 : static_cast<std::uint16_t>(random.below(names));
  }
  const std::size_t pixels = static_cast<std::size_t>(out_height) * out_width;
  std::vector<Id> labels(pixels), expected(pixels);
  std::vector<std::uint8_t> confidence(pixels), sure(pixels);
  std::vector<std::uint64_t> counts(cells), tally(cells);
  const dedos::SlotTable table{thresholds.data(), ids.data()};
  dedos::label_map(dedos::Scores{values.data(), slots, height, width}, table,
                   dedos::LabelImage<Id>{labels.data(), confidence.data(), out_height, out_width},
                   counts.data(), counts.size(), threads);
  const dedos::ScoreMap<float> scores{values.data(), slots, height, width};
  std::vector<dedos::Leader> leaders(plane);
  for (int cell = 0; cell < plane; ++cell) {
    std::int32_t broken;
    leaders[cell] = dedos::leader_at(scores, cell, &broken);
  }
  std::vector<dedos::Rivals> rivals(plane);
  for (int cell = 0; cell < plane; ++cell) {
    dedos::find_rivals(scores, leaders.data(), cell, &rivals[cell]);
  }
  const dedos::LabelImage<Id> image{expected.data(), sure.data(), out_height, out_width};
  for (int y = 0; y < out_height; ++y) {
    for (int x = 0; x < out_width; ++x) {
      const std::uint16_t id =
          dedos::label_at(scores, leaders.data(), rivals.data(), table, image, y, x);
      ++tally[id == dedos::kNone16 ? cells - 1 : id];
    }
  }
  hash.add(labels);
  hash.add(confidence);
  hash.add(counts);
  return labels == expected && confidence == sure && counts == tally;
}

bool confusion_case(Random& random, Hash& hash) {
  const int classes = 1 + random.below(30);
  const std::size_t pixels = 1 + random.below(5000);
  std::vector<std::uint8_t> labels(pixels), predictions(pixels);
  for (std::size_t i = 0; i < pixels; ++i) {
    labels[i] = static_cast<std::uint8_t>(random.below(8) == 0 ? 255 : random.below(classes));
    predictions[i] = static_cast<std::uint8_t>(random.below(8) == 0 ? 255 : random.below(classes));
  }
  const std::size_t columns = static_cast<std::size_t>(classes) + 1;
  std::vector<std::int64_t> matrix(classes * columns), expected(matrix.size());
  const dedos::ConfusionIds ids{classes, 255, 255};
  const dedos::Mistake mistake =
      dedos::confusion(labels.data(), predictions.data(), pixels, ids, matrix.data());
  for (std::size_t i = 0; i < pixels; ++i) {
    if (labels[i] == 255) continue;
    const std::size_t column = predictions[i] == 255 ? classes : predictions[i];
    ++expected[labels[i] * columns + column];
  }
  hash.add(matrix);
  return mistake.at == pixels && matrix == expected;
}

// Whether scores change where the picture stays, and only there.
bool stable_case(Random& random, Hash& hash) {
  const int slots = 1 + random.below(20), height = 1 + random.below(20),
            width = 1 + random.below(20), rows = 8 + random.below(40),
            columns = 8 + random.below(40);
  const std::size_t pixels = static_cast<std::size_t>(rows) * columns;
  std::vector<float> now(static_cast<std::size_t>(slots) * height * width), old(now.size()),
      smoothed(now.size()), flow(2 * pixels);
  std::vector<float> past(static_cast<std::size_t>(height) * width * dedos::past_stride(slots)),
      next(past.size());
  std::vector<std::uint8_t> grey(pixels), before(pixels);
  for (std::size_t i = 0; i < now.size(); ++i) {
    old[i] = 0.5f + 0.1f * random.unit();
    now[i] = old[i] + 0.1f;
  }
  for (float& value : flow) value = 2.0f * random.unit() - 1.0f;
  const bool cut = random.below(4) == 0;
  for (std::size_t i = 0; i < pixels; ++i) {
    before[i] = static_cast<std::uint8_t>(100 + random.below(8));
    grey[i] = static_cast<std::uint8_t>(cut ? 200 : 100 + random.below(8));
  }
  dedos::remember(dedos::Scores{old.data(), slots, height, width}, past.data());
  dedos::stabilise(dedos::Scores{now.data(), slots, height, width},
                   dedos::Motion{grey.data(), before.data(), flow.data(), rows, columns},
                   past.data(), smoothed.data(), next.data());
  hash.add(smoothed);
  return cut == (smoothed == now);
}

// Whether any number of threads adds the same, and what has no weight stays.
bool blend_case(Random& random, Hash& hash, int threads) {
  const int slots = 1 + random.below(20), height = 1 + random.below(20),
            width = 1 + random.below(20), rows = 1 + random.below(40),
            columns = 1 + random.below(40);
  std::vector<float> scores(static_cast<std::size_t>(slots) * height * width), down(rows),
      across(columns);
  std::vector<double> y(rows), x(columns);
  for (float& score : scores) score = random.unit();
  for (int i = 0; i < rows; ++i) {
    y[i] = static_cast<double>(random.unit()) * (height - 1);
    down[i] = i < rows / 4 ? 0.0f : random.unit();
  }
  for (int i = 0; i < columns; ++i) {
    x[i] = static_cast<double>(random.unit()) * (width - 1);
    across[i] = random.unit();
  }
  std::vector<float> blended(static_cast<std::size_t>(slots) * rows * columns, 0.5f);
  std::vector<float> alone = blended;
  const dedos::Scores source{scores.data(), slots, height, width};
  const dedos::WindowAxis vertical{y.data(), down.data(), rows};
  const dedos::WindowAxis horizontal{x.data(), across.data(), columns};
  dedos::blend_window(source, vertical, horizontal, blended.data(), threads);
  dedos::blend_window(source, vertical, horizontal, alone.data(), 1);
  hash.add(blended);
  bool kept = true;
  for (int i = 0; i < rows / 4 * columns; ++i) kept = kept && blended[i] == 0.5f;
  return kept && blended == alone;
}

bool broken_scores_are_refused() {
  std::vector<float> values(12, 0.5f);
  values[7] = std::numeric_limits<float>::quiet_NaN();
  const float threshold[1] = {0.0f};
  const std::uint16_t id[1] = {0};
  std::vector<std::uint8_t> labels(16), confidence(16);
  std::vector<std::uint64_t> counts(2);
  try {
    dedos::label_map(dedos::Scores{values.data(), 1, 3, 4}, dedos::SlotTable{threshold, id},
                     dedos::LabelImage<std::uint8_t>{labels.data(), confidence.data(), 4, 4},
                     counts.data(), counts.size(), 2);
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

}  // namespace

int main() {
  Random random(1);
  Hash hash;
  int failed = broken_scores_are_refused() ? 0 : 1;
  for (int i = 0; i < 300; ++i) {
    failed += label_case<std::uint8_t>(random, hash, 1 + i % 7) ? 0 : 1;
    failed += label_case<std::uint16_t>(random, hash, 1 + i % 7) ? 0 : 1;
    failed += confusion_case(random, hash) ? 0 : 1;
    failed += stable_case(random, hash) ? 0 : 1;
    failed += blend_case(random, hash, 1 + i % 7) ? 0 : 1;
  }
  std::printf("%d failed, hash %016llx\n", failed, hash.value());
  return failed == 0 ? 0 : 1;
}
