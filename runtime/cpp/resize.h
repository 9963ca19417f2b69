// Frames at the network's size, with the levels that OpenCV gives them (INTER_AREA where a frame
// shrinks along both axes, INTER_LINEAR otherwise), to the bit.
#pragma once

#include <cstdint>
#include <vector>

namespace dedos::lib {

constexpr int kChannels = 3;

// uint8 [height][width][3]; bytes from row to row.
struct Picture {
  const std::uint8_t* pixels;
  std::int32_t height;
  std::int32_t width;
  std::int64_t pitch;
};

class Resizer {
 public:
  Resizer(std::int32_t height, std::int32_t width) : height_(height), width_(width) {}

  // Writes uint8 [height][width][3] of the resizer's size, contiguous. What it works out of a size
  // is kept for the next frame.
  void resize(const Picture& from, std::uint8_t* out);

 private:
  // A part of a source cell that counts for an output cell.
  struct Share {
    std::int32_t to, from;
    float weight;
  };

  // Two source cells and what they weigh, of 2048, for an output cell.
  struct Pair {
    std::int32_t first, second;
    std::int32_t weight0, weight1;
  };

  static std::vector<Share> shares(std::int32_t from, std::int32_t to, double scale);
  static std::vector<Pair> pairs(std::int32_t from, std::int32_t to, bool edges);
  void prepare(std::int32_t height, std::int32_t width);
  void copy(const Picture& from, std::uint8_t* out) const;
  void mean(const Picture& from, std::uint8_t* out);
  void area(const Picture& from, std::uint8_t* out);
  void linear(const Picture& from, std::uint8_t* out);
  void spread(const std::uint8_t* row);
  void blend(const std::uint8_t* row, std::int32_t* into) const;

  std::int32_t height_, width_;
  std::int32_t from_height_ = 0, from_width_ = 0;
  std::int32_t cells_down_ = 0, cells_across_ = 0;  // per output cell, where both are whole numbers
  std::vector<Share> shares_down_, shares_across_;
  std::vector<Pair> pairs_down_, pairs_across_;
  std::vector<float> row_, sum_;
  std::vector<std::int32_t> rows_[2];
};

}  // namespace dedos::lib
