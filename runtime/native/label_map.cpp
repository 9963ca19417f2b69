// Why a pixel rarely needs all slots: its value is a blend with non-negative weights of four cells.
// If one slot leads at all four it leads everywhere between them. Otherwise only slots that some
// corner lifts above the average of the corner winners can win, because that average, blended, is
// no more than the best winner. Both tests keep a margin for rounding, so the result is exact.
#include "label_map.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "joined_threads.h"
#include "label_loops.h"
#include "label_math.h"

namespace dedos {
namespace {

constexpr std::int32_t kExponent = 0x7f800000;  // bits of infinity; NaN lies above

constexpr int padded(int size, int step) { return (size + step - 1) / step * step; }

// One row of cells: all slots, and per cell the leading slot, its score and the best score among
// the slots before it (they would win a tie that rounding makes).
struct CellRow {
  int y = -1;
  float magnitude = 0;
  std::vector<float> values;  // [slots][stride], the last column repeated
  std::vector<float> best;
  std::vector<float> before;
  std::vector<std::int32_t> slot;
};

// Least scores that keep a slot in the race, one array per corner of a quad of cells.
struct Bounds {
  std::vector<float> top_left, top_right, bottom_left, bottom_right;
};

// What one row of output pixels needs, padded to whole lanes.
struct PixelRow {
  std::vector<float> top, bottom, threshold, value;
  std::vector<std::int32_t> id;
};

// Output pixels along one axis, and for each cell the first output that starts from it.
struct Axis {
  std::vector<std::int32_t> first;  // [cells + 1]
  std::vector<float> weight0, weight1;

  Axis(int cells, int outputs)
      : first(cells + 1, outputs),
        weight0(padded(outputs, kLanes) + kLanes),
        weight1(weight0.size()) {
    const float scale = static_cast<float>(cells) / static_cast<float>(outputs);
    int cell = 0;
    for (int output = 0; output < outputs; ++output) {
      const Tap tap = tap_at(output, scale, cells);
      weight0[output] = tap.weight0;
      weight1[output] = tap.weight1;
      while (cell <= tap.index) first[cell++] = output;
    }
  }
};

// Adds one row of ids to `counts`, a word at a time where a word holds a single id.
template <typename Id>
void count_ids(const Id* ids, int count, std::uint64_t* counts) {
  constexpr int kPerWord = sizeof(std::uint64_t) / sizeof(Id);
  constexpr int kBits = 8 * sizeof(Id);
  int x = 0;
  for (; x + kPerWord <= count; x += kPerWord) {
    std::uint64_t word;
    std::memcpy(&word, ids + x, sizeof word);
    if (word == (word << kBits | word >> (64 - kBits))) {
      counts[ids[x]] += kPerWord;
    } else {
      for (int i = 0; i < kPerWord; ++i) ++counts[ids[x + i]];
    }
  }
  for (; x < count; ++x) ++counts[ids[x]];
}

[[noreturn]] void throw_not_finite(const Scores& scores) {
  const std::size_t plane = static_cast<std::size_t>(scores.height) * scores.width;
  const std::size_t all = plane * scores.slots;
  std::size_t i = 0;
  while (i < all && std::isfinite(scores.values[i])) ++i;
  if (i == all) {
    throw std::invalid_argument(
        "scores must be finite, and were not until something changed them meanwhile; leave them "
        "alone while they are labelled");
  }
  throw std::invalid_argument("scores must be finite, but slot " + std::to_string(i / plane) +
                              " has " + (std::isnan(scores.values[i]) ? "NaN" : "an infinity") +
                              " at row " + std::to_string(i % plane / scores.width) + ", column " +
                              std::to_string(i % scores.width) +
                              "; check the network that made them");
}

// Labels the output rows that start from a range of cell rows; one worker per thread.
template <typename Id>
class Worker {
 public:
  Worker(const Scores& scores, const SlotTable& slots, const LabelImage<Id>& image,
         const Axis& across, const Axis& down)
      : scores_(scores),
        slots_(slots),
        image_(image),
        across_(across),
        down_(down),
        stride_(padded(scores.width, kBlock) + kBlock),
        counts_(std::size_t{std::numeric_limits<Id>::max()} + 1) {
    for (CellRow& row : rows_) {
      row.values.resize(static_cast<std::size_t>(scores.slots) * stride_);
      row.best.resize(stride_);
      row.before.resize(stride_);
      row.slot.resize(stride_);
    }
    magnitude_.resize(stride_);
    for (auto* bound :
         {&bounds_.top_left, &bounds_.top_right, &bounds_.bottom_left, &bounds_.bottom_right}) {
      bound->resize(stride_, std::numeric_limits<float>::infinity());
    }
    const std::size_t pixels = across.weight0.size();
    for (auto* row : {&pixels_.top, &pixels_.bottom, &pixels_.threshold, &pixels_.value}) {
      row->resize(pixels);
    }
    pixels_.id.resize(pixels);
    candidates_.reset(new Candidate[static_cast<std::size_t>(scores.width) * scores.slots]);
    candidate_count_.resize(scores.width);
    contested_.reserve(scores.width);
    blocks_.reserve(scores.width);
  }

  // Labels the output rows that start from cell row `y`; false when a score is not finite.
  bool label(int y) {
    const CellRow& top = load(y);
    if (down_.first[y] == down_.first[y + 1]) return std::isfinite(top.magnitude);
    const CellRow& bottom = load(std::min(y + 1, scores_.height - 1));
    const float magnitude = std::max(top.magnitude, bottom.magnitude);
    if (!std::isfinite(magnitude)) return false;
    contested_.clear();
    const float margin = rounding_margin(magnitude);
    for (int x = 0; x < scores_.width; ++x) prepare_quad(top, bottom, x, margin);
    if (!contested_.empty()) collect_candidates(top, bottom);
    for (int row = down_.first[y]; row < down_.first[y + 1]; ++row) write_output_row(row);
    return true;
  }

  // `cells` may be more than there are ids, and fewer than an image could hold.
  void add_counts(std::uint64_t* counts, std::size_t cells) const {
    const std::size_t known = std::min(cells, counts_.size()) - 1;
    for (std::size_t id = 0; id < known; ++id) counts[id] += counts_[id];
    counts[cells - 1] += counts_.back();
  }

 private:
  CellRow& load(int y) {
    CellRow& row = rows_[y & 1];
    if (row.y == y) return row;
    row.y = y;
    std::fill(row.best.begin(), row.best.end(), -std::numeric_limits<float>::infinity());
    std::fill(row.before.begin(), row.before.end(), -std::numeric_limits<float>::infinity());
    std::fill(row.slot.begin(), row.slot.end(), 0);
    std::fill(magnitude_.begin(), magnitude_.end(), 0);
    const std::size_t plane = static_cast<std::size_t>(scores_.height) * scores_.width;
    for (int k = 0; k < scores_.slots; ++k) {
      const float* source =
          scores_.values + k * plane + static_cast<std::size_t>(y) * scores_.width;
      float* values = row.values.data() + static_cast<std::size_t>(k) * stride_;
      std::memcpy(values, source, scores_.width * sizeof(float));
      std::fill(values + scores_.width, values + stride_, source[scores_.width - 1]);
      update_leaders(values, k, stride_, row.best.data(), row.before.data(), row.slot.data(),
                     magnitude_.data());
    }
    const std::int32_t bits = *std::max_element(magnitude_.begin(), magnitude_.end());
    std::memcpy(&row.magnitude, &bits, sizeof bits);
    if (bits >= kExponent) row.magnitude = std::numeric_limits<float>::infinity();
    return row;
  }

  // Writes the quad's share of the pixel row if one slot owns it, its bounds if several compete.
  void prepare_quad(const CellRow& top, const CellRow& bottom, int x, float margin) {
    constexpr float kNever = std::numeric_limits<float>::infinity();
    bounds_.top_left[x] = bounds_.top_right[x] = kNever;
    bounds_.bottom_left[x] = bounds_.bottom_right[x] = kNever;
    if (across_.first[x] == across_.first[x + 1]) return;
    const int k = top.slot[x];
    const bool shared = top.slot[x + 1] == k && bottom.slot[x] == k && bottom.slot[x + 1] == k;
    if (shared && clear(top, x, margin) && clear(top, x + 1, margin) && clear(bottom, x, margin) &&
        clear(bottom, x + 1, margin)) {
      fill_owned(top, bottom, x, k);
      return;
    }
    const int winners[4] = {k, top.slot[x + 1], bottom.slot[x], bottom.slot[x + 1]};
    bounds_.top_left[x] = average(top, winners, x) - margin;
    bounds_.top_right[x] = average(top, winners, x + 1) - margin;
    bounds_.bottom_left[x] = average(bottom, winners, x) - margin;
    bounds_.bottom_right[x] = average(bottom, winners, x + 1) - margin;
    candidate_count_[x] = 0;
    contested_.push_back(x);
  }

  static bool clear(const CellRow& row, int x, float margin) {
    return row.best[x] - row.before[x] > margin;
  }

  float average(const CellRow& row, const int* winners, int x) const {
    float sum = 0;
    for (int i = 0; i < 4; ++i) {
      sum += 0.25f * row.values[static_cast<std::size_t>(winners[i]) * stride_ + x];
    }
    return sum;
  }

  void fill_owned(const CellRow& top, const CellRow& bottom, int x, int k) {
    const int begin = across_.first[x], count = across_.first[x + 1] - begin;
    const float* weight0 = across_.weight0.data() + begin;
    const float* weight1 = across_.weight1.data() + begin;
    blend_constant(top.best[x], top.best[x + 1], weight0, weight1, count,
                   pixels_.top.data() + begin);
    blend_constant(bottom.best[x], bottom.best[x + 1], weight0, weight1, count,
                   pixels_.bottom.data() + begin);
    std::fill_n(pixels_.threshold.begin() + begin, count, slots_.thresholds[k]);
    std::fill_n(pixels_.id.begin() + begin, count, slots_.ids[k]);
  }

  // Slot by slot, so that every list of candidates is in slot order.
  void collect_candidates(const CellRow& top, const CellRow& bottom) {
    blocks_.clear();
    for (int x : contested_) {
      const int block = x / kBlock * kBlock;
      if (blocks_.empty() || blocks_.back() != block) blocks_.push_back(block);
    }
    alignas(8) std::uint8_t flags[kBlock];
    for (int k = 0; k < scores_.slots; ++k) {
      const float* top_values = top.values.data() + static_cast<std::size_t>(k) * stride_;
      const float* bottom_values = bottom.values.data() + static_cast<std::size_t>(k) * stride_;
      for (int block : blocks_) {
        flag_candidates(top_values + block, bottom_values + block, bounds_.top_left.data() + block,
                        bounds_.top_right.data() + block, bounds_.bottom_left.data() + block,
                        bounds_.bottom_right.data() + block, flags);
        std::uint64_t words[2];
        std::memcpy(words, flags, sizeof words);
        if ((words[0] | words[1]) == 0) continue;
        for (int x = 0; x < kBlock; ++x) {
          if (flags[x]) add_candidate(top_values, bottom_values, block + x, k);
        }
      }
    }
  }

  void add_candidate(const float* top, const float* bottom, int x, int k) {
    Candidate* list = candidates_.get() + static_cast<std::size_t>(x) * scores_.slots;
    list[candidate_count_[x]++] = {top[x],        top[x + 1],           bottom[x],
                                   bottom[x + 1], slots_.thresholds[k], slots_.ids[k]};
  }

  void write_output_row(int row) {
    const int width = image_.width;
    const float down0 = down_.weight0[row], down1 = down_.weight1[row];
    blend_rows(pixels_.top.data(), pixels_.bottom.data(), down0, down1, width,
               pixels_.value.data());
    for (int x : contested_) elect_quad(x, down0, down1);
    Id* ids = image_.ids + static_cast<std::size_t>(row) * width;
    write_row(pixels_.value.data(), pixels_.threshold.data(), pixels_.id.data(), width, ids,
              image_.confidence + static_cast<std::size_t>(row) * width);
    count_ids(ids, width, counts_.data());
  }

  void elect_quad(int x, float down0, float down1) {
    const Candidate* list = candidates_.get() + static_cast<std::size_t>(x) * scores_.slots;
    float winning[kLanes];
    std::int32_t winner[kLanes];
    for (int begin = across_.first[x]; begin < across_.first[x + 1]; begin += kLanes) {
      elect(list, candidate_count_[x], across_.weight0.data() + begin,
            across_.weight1.data() + begin, down0, down1, winning, winner);
      const int count = std::min(kLanes, across_.first[x + 1] - begin);
      for (int i = 0; i < count; ++i) {
        pixels_.value[begin + i] = winning[i];
        pixels_.threshold[begin + i] = list[winner[i]].threshold;
        pixels_.id[begin + i] = list[winner[i]].id;
      }
    }
  }

  const Scores scores_;
  const SlotTable slots_;
  const LabelImage<Id> image_;
  const Axis& across_;
  const Axis& down_;
  const int stride_;
  CellRow rows_[2];
  std::vector<std::int32_t> magnitude_;
  Bounds bounds_;
  PixelRow pixels_;
  std::unique_ptr<Candidate[]> candidates_;  // [width][slots], left uninitialised until used
  std::vector<int> candidate_count_;
  std::vector<int> contested_;
  std::vector<int> blocks_;
  std::vector<std::uint64_t> counts_;  // by id as written, none last
};

}  // namespace

template <typename Id>
void label_map(const Scores& scores, const SlotTable& slots, const LabelImage<Id>& image,
               std::uint64_t* counts, std::size_t cells, int threads) {
  const Axis across(scores.width, image.width), down(scores.height, image.height);
  threads = std::min(threads, scores.height);
  // Small chunks level out busy and empty parts of a frame; each costs one cell row read twice.
  const int chunk = std::max(1, std::min(8, scores.height / (4 * threads)));
  std::atomic<int> next{0};
  std::atomic<bool> finite{true};
  // Everything is allocated here, so that no thread can fail.
  const int rounds = padded(scores.height, chunk) / chunk;
  std::vector<std::unique_ptr<Worker<Id>>> workers;
  for (int i = 0; i < std::min(threads, rounds); ++i) {
    workers.push_back(std::make_unique<Worker<Id>>(scores, slots, image, across, down));
  }
  const auto work = [&](Worker<Id>& worker) {
    for (int begin = next.fetch_add(chunk); begin < scores.height; begin = next.fetch_add(chunk)) {
      for (int y = begin; y < std::min(begin + chunk, scores.height); ++y) {
        if (!finite || !worker.label(y)) finite = false;
      }
    }
  };
  {
    JoinedThreads others;
    for (std::size_t i = 1; i < workers.size(); ++i) {
      others.threads.emplace_back(work, std::ref(*workers[i]));
    }
    work(*workers[0]);
  }
  if (!finite) throw_not_finite(scores);
  std::fill_n(counts, cells, std::uint64_t{0});
  for (const auto& worker : workers) worker->add_counts(counts, cells);
}

template void label_map(const Scores&, const SlotTable&, const LabelImage<std::uint8_t>&,
                        std::uint64_t*, std::size_t, int);
template void label_map(const Scores&, const SlotTable&, const LabelImage<std::uint16_t>&,
                        std::uint64_t*, std::size_t, int);

}  // namespace dedos
