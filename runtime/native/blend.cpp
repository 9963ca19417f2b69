#include "blend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include "joined_threads.h"
#include "label_loops.h"
#include "label_math.h"
#include "multiversion.h"

namespace dedos {
namespace {

// Where the cells of an axis that take anything, from `first` on, fall between score cells.
struct Taps {
  std::int32_t first = 0;
  std::vector<std::int32_t> index, next;
  std::vector<float> weight0, weight1, share;

  Taps(const WindowAxis& axis, std::int32_t cells) {
    std::int32_t end = axis.count;
    while (first < end && axis.weights[first] == 0.0f) ++first;
    while (end > first && axis.weights[end - 1] == 0.0f) --end;
    for (std::int32_t i = first; i < end; ++i) {
      const auto below = std::min(static_cast<std::int32_t>(axis.coordinates[i]), cells - 1);
      const auto part = static_cast<float>(axis.coordinates[i] - below);
      index.push_back(below);
      next.push_back(std::min(below + 1, cells - 1));
      weight0.push_back(1.0f - part);
      weight1.push_back(part);
      share.push_back(axis.weights[i]);
    }
  }

  int size() const { return static_cast<int>(index.size()); }
};

DEDOS_MULTIVERSION
void add_row(const float* row, const std::int32_t* index, const std::int32_t* next,
             const float* weight0, const float* weight1, const float* share, float row_share,
             int count, float* out) {
  for (int x = 0; x < count; ++x) {
    const float value = blend(row[index[x]], row[next[x]], weight0[x], weight1[x]);
    out[x] = std::fma(value, share[x] * row_share, out[x]);
  }
}

void add_slot(const Scores& scores, std::int32_t slot, const Taps& down, const Taps& across,
              std::int32_t width, float* blended, float* row) {
  const float* cells =
      scores.values + static_cast<std::size_t>(slot) * scores.height * scores.width;
  for (int i = 0; i < down.size(); ++i) {
    const float* top = cells + static_cast<std::size_t>(down.index[i]) * scores.width;
    const float* bottom = cells + static_cast<std::size_t>(down.next[i]) * scores.width;
    blend_rows(top, bottom, down.weight0[i], down.weight1[i], scores.width, row);
    float* out = blended + static_cast<std::size_t>(down.first + i) * width + across.first;
    add_row(row, across.index.data(), across.next.data(), across.weight0.data(),
            across.weight1.data(), across.share.data(), down.share[i], across.size(), out);
  }
}

}  // namespace

void blend_window(const Scores& scores, const WindowAxis& down, const WindowAxis& across,
                  float* blended, int threads) {
  const Taps rows(down, scores.height), columns(across, scores.width);
  const std::size_t plane = static_cast<std::size_t>(down.count) * across.count;
  threads = std::min(threads, scores.slots);
  // Everything is allocated here, so that no thread can fail.
  std::vector<std::vector<float>> buffers(threads, std::vector<float>(scores.width));
  std::atomic<std::int32_t> next{0};
  const auto work = [&](std::vector<float>& buffer) {
    for (std::int32_t slot = next++; slot < scores.slots; slot = next++) {
      add_slot(scores, slot, rows, columns, across.count, blended + slot * plane, buffer.data());
    }
  };
  JoinedThreads others;
  for (int i = 1; i < threads; ++i) others.threads.emplace_back(work, std::ref(buffers[i]));
  work(buffers[0]);
}

}  // namespace dedos
