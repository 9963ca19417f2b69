#include "regions.h"

#include <algorithm>

namespace dedos {
namespace {

// A longest piece of a row with one id.
struct Run {
  std::int64_t row, begin, end;
};

// Sets of runs; each is known by its first.
class Sets {
 public:
  void add() { parents_.push_back(static_cast<std::int32_t>(parents_.size())); }

  std::int32_t first(std::int32_t run) {
    while (parents_[run] != run) run = parents_[run] = parents_[parents_[run]];
    return run;
  }

  void join(std::int32_t one, std::int32_t other) {
    one = first(one);
    other = first(other);
    parents_[std::max(one, other)] = std::min(one, other);
  }

 private:
  std::vector<std::int32_t> parents_;
};

constexpr std::int64_t kBlock = 16;

template <typename Id>
bool block_of(const Id* ids, Id id) {
  Id differing = 0;
  for (std::int64_t i = 0; i < kBlock; ++i) differing |= ids[i] ^ id;
  return differing == 0;
}

template <typename Id>
void add_runs(const Id* row_ids, std::int64_t row, std::int64_t width, std::vector<Run>& runs,
              Sets& sets) {
  for (std::int64_t begin = 0, end = 0; begin < width; begin = end) {
    while (end + kBlock <= width && block_of(row_ids + end, row_ids[begin])) end += kBlock;
    while (end < width && row_ids[end] == row_ids[begin]) ++end;
    runs.push_back({row, begin, end});
    sets.add();
  }
}

}  // namespace

template <typename Id>
std::vector<Region> connect(const Id* ids, std::int64_t height, std::int64_t width,
                            std::int32_t* region_of_pixel) {
  std::vector<Run> runs;
  Sets sets;
  const auto id_of = [&](std::size_t run) { return ids[runs[run].row * width + runs[run].begin]; };
  const auto join_equal = [&](std::size_t above, std::size_t below) {
    if (id_of(above) != id_of(below)) return;
    sets.join(static_cast<std::int32_t>(above), static_cast<std::int32_t>(below));
  };
  std::size_t above = 0;  // of the row before, the run at hand
  for (std::int64_t row = 0; row < height; ++row) {
    const std::size_t middle = runs.size();
    add_runs(ids + row * width, row, width, runs, sets);
    std::size_t below = middle;
    while (above < middle && below < runs.size()) {
      join_equal(above, below);
      const std::int64_t end = runs[above].end, other = runs[below].end;
      if (end == other && above + 1 < middle) {  // they touch over corners
        join_equal(above, below + 1);
        join_equal(above + 1, below);
      }
      above += end <= other;
      below += other <= end;
    }
    above = middle;
  }

  std::vector<Region> regions;
  std::vector<std::int32_t> region_of_run(runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto [row, begin, end] = runs[i];
    const auto first = static_cast<std::size_t>(sets.first(static_cast<std::int32_t>(i)));
    if (first == i) {
      region_of_run[i] = static_cast<std::int32_t>(regions.size());
      regions.push_back({id_of(i), 0, begin, row, end, row + 1, 0, 0});
    } else {
      region_of_run[i] = region_of_run[first];
    }
    Region& region = regions[region_of_run[i]];
    const std::int64_t length = end - begin;
    region.area += length;
    region.left = std::min(region.left, begin);
    region.right = std::max(region.right, end);
    region.bottom = row + 1;
    region.columns += length * (begin + end - 1) / 2;
    region.rows += length * row;
    std::fill(region_of_pixel + row * width + begin, region_of_pixel + row * width + end,
              region_of_run[i]);
  }
  return regions;
}

template std::vector<Region> connect(const std::uint8_t*, std::int64_t, std::int64_t,
                                     std::int32_t*);
template std::vector<Region> connect(const std::uint16_t*, std::int64_t, std::int64_t,
                                     std::int32_t*);

}  // namespace dedos
