// Connected regions of a label map, and their outlines.
#pragma once

#include <cstdint>
#include <vector>

namespace dedos {

// Ids of pixels, row by row; there are fewer than 2^31. Id is uint8_t or uint16_t.
template <typename Id>
struct IdMap {
  const Id* ids;
  std::int64_t height, width;
};

// Pixels of one id that hang together over sides and corners.
struct Region {
  std::int64_t id;
  std::int64_t area;
  // The smallest box around them; right and bottom lie beyond.
  std::int64_t left, top, right, bottom;
  // Of all pixels, added up.
  std::int64_t columns, rows;
};

// In the order of their first pixels.
template <typename Id>
std::vector<Region> connect(const IdMap<Id>& map);

// Regions whose outlines are asked for.
struct Wanted {
  // Nonzero for each id that is; ids from id_count on are not.
  const std::uint8_t* ids;
  std::int64_t id_count;
  // Pixels of the smallest.
  std::int64_t min_area;
};

struct Point {
  std::int32_t column, row;
};

// A closed line through pixels of a region beside others, all of one kind.
struct Outline {
  std::int64_t id;
  // 0 around the region, 1 around a hole of it.
  std::int64_t is_hole;
  // First of its points, and the first one beyond.
  std::int64_t begin, end;
};

struct Outlines {
  std::vector<Point> points;
  // Region by region in the order of their first pixels, the holes of each after what is around it.
  std::vector<Outline> lines;
};

// Points where an outline turns, in the order in which OpenCV's findContours tells them of the mask
// of each region alone (RETR_CCOMP, CHAIN_APPROX_SIMPLE).
template <typename Id>
Outlines outline(const IdMap<Id>& map, const Wanted& wanted);

}  // namespace dedos
