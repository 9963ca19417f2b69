#include "regions.h"

#include <algorithm>
#include <cstddef>
#include <tuple>
#include <utility>

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

// All runs in reading order, those that touch joined.
struct Runs {
  std::vector<Run> runs;
  Sets sets;
};

template <typename Id>
Runs joined_runs(const IdMap<Id>& map) {
  Runs found;
  std::vector<Run>& runs = found.runs;
  const auto id_of = [&](std::size_t run) {
    return map.ids[runs[run].row * map.width + runs[run].begin];
  };
  const auto join_equal = [&](std::size_t above, std::size_t below) {
    if (id_of(above) != id_of(below)) return;
    found.sets.join(static_cast<std::int32_t>(above), static_cast<std::int32_t>(below));
  };
  std::size_t above = 0;  // of the row before, the run at hand
  for (std::int64_t row = 0; row < map.height; ++row) {
    const std::size_t middle = runs.size();
    add_runs(map.ids + row * map.width, row, map.width, runs, found.sets);
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
  return found;
}

// Regions of joined runs, and the place of each run's region among them.
struct Grouped {
  std::vector<Region> regions;
  std::vector<std::int32_t> region_of_run;
};

template <typename Id>
Grouped grouped(const IdMap<Id>& map, Runs& joined) {
  Grouped done{{}, std::vector<std::int32_t>(joined.runs.size())};
  auto& [regions, region_of_run] = done;
  for (std::size_t i = 0; i < region_of_run.size(); ++i) {
    const auto [row, begin, end] = joined.runs[i];
    const auto first = static_cast<std::size_t>(joined.sets.first(static_cast<std::int32_t>(i)));
    if (first == i) {
      region_of_run[i] = static_cast<std::int32_t>(regions.size());
      regions.push_back({map.ids[row * map.width + begin], 0, begin, row, end, row + 1, 0, 0});
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
  }
  return done;
}

// Directions to a pixel's neighbours, counter-clockwise.
constexpr int kEast = 0, kWest = 4, kDirections = 8;
constexpr Point kSteps[kDirections] = {{1, 0},  {1, -1}, {0, -1}, {-1, -1},
                                       {-1, 0}, {-1, 1}, {0, 1},  {1, 1}};

bool equal(Point one, Point other) { return one.column == other.column && one.row == other.row; }

Point moved(Point at, int direction) {
  return {at.column + kSteps[direction].column, at.row + kSteps[direction].row};
}

// Follows borders of regions as Suzuki and Abe do (1985), in the steps of OpenCV's findContours.
// Neighbours of one id are of one region, so that ids are all that it needs.
template <typename Id>
class Follower {
 public:
  explicit Follower(const IdMap<Id>& map)
      : map_(map), right_passed_(static_cast<std::size_t>(map.height * map.width + 63) / 64) {}

  // Whether a border has been followed that lies between a pixel and its neighbour to the right.
  bool right_passed(Point at) const {
    return right_passed_[place(at) / 64] >> (place(at) % 64) & 1;
  }

  // Adds the points of the border between a pixel and its neighbour to one side, east or west.
  void follow(Point start, int side, std::vector<Point>& points) {
    int from = side;
    do {
      from = (from + kDirections - 1) % kDirections;
    } while (from != side && !alike(start, from));
    if (from == side) {  // a region of one pixel
      points.push_back(start);
      return pass_right(start);
    }
    const Point last = moved(start, from);
    Point at = start, before = start;
    int drawn = opposite(from);
    do {
      const int to = turned(at, from);
      if (to != drawn) points.push_back(at);
      drawn = to;
      before = at;
      at = moved(at, to);
      from = opposite(to);
    } while (!equal(at, start) || !equal(before, last));
  }

 private:
  static int opposite(int direction) { return direction ^ kWest; }

  std::size_t place(Point at) const {
    return static_cast<std::size_t>(at.row * map_.width + at.column);
  }

  void pass_right(Point at) { right_passed_[place(at) / 64] |= std::uint64_t{1} << place(at) % 64; }

  // Whether the neighbour in a direction is of the same id.
  bool alike(Point at, int direction) const {
    const Point other = moved(at, direction);
    return other.column >= 0 && other.column < map_.width && other.row >= 0 &&
           other.row < map_.height && map_.ids[place(other)] == map_.ids[place(at)];
  }

  // The first direction after `from` where a neighbour is alike; notes what is not, to the right.
  int turned(Point at, int from) {
    for (int to = from;;) {
      to = (to + 1) % kDirections;
      if (alike(at, to)) return to;
      if (to == kEast) pass_right(at);
    }
  }

  IdMap<Id> map_;
  std::vector<std::uint64_t> right_passed_;  // bit by bit
};

// Lines by their regions, as Outlines has them: holes were found in reading order, and OpenCV tells
// the last first.
std::vector<Outline> in_order(std::vector<std::pair<std::int32_t, Outline>> lines) {
  std::sort(lines.begin(), lines.end(), [](const auto& one, const auto& other) {
    return std::make_tuple(one.first, one.second.is_hole, -one.second.begin) <
           std::make_tuple(other.first, other.second.is_hole, -other.second.begin);
  });
  std::vector<Outline> ordered;
  ordered.reserve(lines.size());
  for (const auto& [region, line] : lines) ordered.push_back(line);
  return ordered;
}

}  // namespace

template <typename Id>
std::vector<Region> connect(const IdMap<Id>& map) {
  Runs joined = joined_runs(map);
  return grouped(map, joined).regions;
}

template <typename Id>
Outlines outline(const IdMap<Id>& map, const Wanted& wanted) {
  Runs joined = joined_runs(map);
  const auto [regions, region_of_run] = grouped(map, joined);
  Follower<Id> follower(map);
  Outlines done;
  std::vector<std::pair<std::int32_t, Outline>> lines;
  const auto add = [&, &regions = regions](std::int32_t region, Point start, int side) {
    const auto begin = static_cast<std::int64_t>(done.points.size());
    follower.follow(start, side, done.points);
    const auto end = static_cast<std::int64_t>(done.points.size());
    lines.push_back({region, {regions[region].id, side == kEast, begin, end}});
  };
  std::int32_t begun = -1;  // the last region whose first run was met
  for (std::size_t i = 0; i < joined.runs.size(); ++i) {
    const std::int32_t number = region_of_run[i];
    const Region& region = regions[number];
    const bool first = number > begun;
    begun = std::max(begun, number);
    if (region.id >= wanted.id_count || !wanted.ids[region.id] || region.area < wanted.min_area) {
      continue;
    }
    const auto row = static_cast<std::int32_t>(joined.runs[i].row);
    const Point right{static_cast<std::int32_t>(joined.runs[i].end - 1), row};
    if (first) add(number, {static_cast<std::int32_t>(joined.runs[i].begin), row}, kWest);
    if (!follower.right_passed(right)) add(number, right, kEast);
  }
  done.lines = in_order(std::move(lines));
  return done;
}

template std::vector<Region> connect(const IdMap<std::uint8_t>&);
template std::vector<Region> connect(const IdMap<std::uint16_t>&);
template Outlines outline(const IdMap<std::uint8_t>&, const Wanted&);
template Outlines outline(const IdMap<std::uint16_t>&, const Wanted&);

}  // namespace dedos
