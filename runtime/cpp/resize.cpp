#include "resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace dedos::lib {

namespace {

constexpr int kWeightBits = 11;

// Rounded half to even; sums of levels are in [0, 255] up to rounding.
std::uint8_t level(float value) {
  const float clipped = std::min(std::max(value, 0.0f), 255.0f);
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(clipped + 0x1.8p23f - 0x1.8p23f));
}

std::int32_t weight(float part) {
  return static_cast<std::int32_t>(std::nearbyint(part * (1 << kWeightBits)));
}

// OpenCV divides twice.
double scale_of(std::int32_t from, std::int32_t to) {
  return 1.0 / (static_cast<double>(to) / from);
}

// How many source cells make an output cell, 0 where that is no whole number.
std::int32_t whole(double scale) {
  const double near = std::nearbyint(scale);
  return std::fabs(scale - near) < std::numeric_limits<double>::epsilon()
             ? static_cast<std::int32_t>(near)
             : 0;
}

}  // namespace

std::vector<Resizer::Share> Resizer::shares(std::int32_t from, std::int32_t to, double scale) {
  std::vector<Share> found;
  for (std::int32_t cell = 0; cell < to; ++cell) {
    const double begin = cell * scale, end = begin + scale;
    const double size = std::min(scale, from - begin);
    const std::int32_t last = std::min(static_cast<std::int32_t>(std::floor(end)), from - 1);
    const std::int32_t first = std::min(static_cast<std::int32_t>(std::ceil(begin)), last);
    // Less than a thousandth of a cell is left out.
    if (first - begin > 1e-3) {
      found.push_back({cell, first - 1, static_cast<float>((first - begin) / size)});
    }
    for (std::int32_t at = first; at < last; ++at) {
      found.push_back({cell, at, static_cast<float>(1.0 / size)});
    }
    if (end - last > 1e-3) {
      const double part = std::min(std::min(end - last, 1.0), size);
      found.push_back({cell, last, static_cast<float>(part / size)});
    }
  }
  return found;
}

std::vector<Resizer::Pair> Resizer::pairs(std::int32_t from, std::int32_t to, bool edges) {
  std::vector<Pair> found;
  const double scale = scale_of(from, to);
  for (std::int32_t cell = 0; cell < to; ++cell) {
    float part = static_cast<float>((cell + 0.5) * scale - 0.5);
    std::int32_t at = static_cast<std::int32_t>(std::floor(part));
    part -= static_cast<float>(at);
    // Beyond the outer centres a row is one pixel's; a column is of two equal ones, each rounded.
    if (edges && (at < 0 || at >= from - 1)) part = 0.0f;
    found.push_back({std::clamp(at, 0, from - 1), std::clamp(at + 1, 0, from - 1),
                     weight(1.0f - part), weight(part)});
  }
  return found;
}

void Resizer::prepare(std::int32_t height, std::int32_t width) {
  if (from_height_ == height && from_width_ == width) return;
  from_height_ = height;
  from_width_ = width;
  const std::size_t row = static_cast<std::size_t>(width_) * kChannels;
  const double down = scale_of(height, height_), across = scale_of(width, width_);
  cells_down_ = whole(down);
  cells_across_ = whole(across);
  if (height_ > height || width_ > width) {
    pairs_down_ = pairs(height, height_, false);
    pairs_across_ = pairs(width, width_, true);
    for (std::vector<std::int32_t>& kept : rows_) kept.resize(row);
  } else if (cells_down_ == 0 || cells_across_ == 0) {
    shares_down_ = shares(height, height_, down);
    shares_across_ = shares(width, width_, across);
    row_.resize(row);
    sum_.resize(row);
  }
}

void Resizer::resize(const Picture& from, std::uint8_t* out) {
  prepare(from.height, from.width);
  if (from.height == height_ && from.width == width_) {
    copy(from, out);
  } else if (height_ > from.height || width_ > from.width) {
    linear(from, out);
  } else if (cells_down_ > 0 && cells_across_ > 0) {
    mean(from, out);
  } else {
    area(from, out);
  }
}

void Resizer::copy(const Picture& from, std::uint8_t* out) const {
  const std::size_t row = static_cast<std::size_t>(width_) * kChannels;
  for (std::int32_t y = 0; y < height_; ++y) {
    std::memcpy(out + y * row, from.pixels + y * from.pitch, row);
  }
}

void Resizer::mean(const Picture& from, std::uint8_t* out) {
  const std::int32_t cells = cells_down_ * cells_across_;
  const float part = static_cast<float>(1.0 / cells);
  const bool four = cells_down_ == 2 && cells_across_ == 2;
  for (std::int32_t y = 0; y < height_; ++y) {
    const std::uint8_t* top = from.pixels + static_cast<std::int64_t>(y) * cells_down_ * from.pitch;
    for (std::int32_t x = 0; x < width_; ++x) {
      std::int32_t sum[kChannels] = {};
      for (std::int32_t j = 0; j < cells_down_; ++j) {
        const std::uint8_t* at = top + j * from.pitch + std::int64_t{x} * cells_across_ * kChannels;
        for (std::int32_t i = 0; i < cells_across_; ++i) {
          for (int c = 0; c < kChannels; ++c) sum[c] += *at++;
        }
      }
      for (int c = 0; c < kChannels; ++c) {
        // OpenCV rounds halves up for four pixels, and to even otherwise.
        *out++ = four ? static_cast<std::uint8_t>((sum[c] + 2) >> 2)
                      : level(static_cast<float>(sum[c]) * part);
      }
    }
  }
}

void Resizer::spread(const std::uint8_t* row) {
  std::fill(row_.begin(), row_.end(), 0.0f);
  for (const Share& share : shares_across_) {
    float* to = row_.data() + std::int64_t{share.to} * kChannels;
    const std::uint8_t* pixel = row + std::int64_t{share.from} * kChannels;
    for (int c = 0; c < kChannels; ++c) to[c] += static_cast<float>(pixel[c]) * share.weight;
  }
}

void Resizer::area(const Picture& from, std::uint8_t* out) {
  const std::size_t count = row_.size();
  std::int32_t spread_row = -1;  // a row that two outputs share is spread once
  for (std::size_t i = 0; i < shares_down_.size(); ++i) {
    const Share& share = shares_down_[i];
    if (share.from != spread_row) spread(from.pixels + share.from * from.pitch);
    spread_row = share.from;
    const bool first = i == 0 || shares_down_[i - 1].to != share.to;
    const float weight = share.weight;
    for (std::size_t x = 0; x < count; ++x) {
      sum_[x] = first ? weight * row_[x] : sum_[x] + weight * row_[x];
    }
    if (i + 1 < shares_down_.size() && shares_down_[i + 1].to == share.to) continue;
    std::uint8_t* row = out + static_cast<std::size_t>(share.to) * count;
    for (std::size_t x = 0; x < count; ++x) row[x] = level(sum_[x]);
  }
}

void Resizer::blend(const std::uint8_t* row, std::int32_t* into) const {
  for (const Pair& pair : pairs_across_) {
    const std::uint8_t* first = row + std::int64_t{pair.first} * kChannels;
    const std::uint8_t* second = row + std::int64_t{pair.second} * kChannels;
    for (int c = 0; c < kChannels; ++c) {
      *into++ = first[c] * pair.weight0 + second[c] * pair.weight1;
    }
  }
}

void Resizer::linear(const Picture& from, std::uint8_t* out) {
  std::int32_t kept[2] = {-1, -1};
  for (const Pair& pair : pairs_down_) {
    if (pair.first == kept[1] && pair.first != kept[0]) {
      std::swap(rows_[0], rows_[1]);
      std::swap(kept[0], kept[1]);
    }
    const std::int32_t wanted[2] = {pair.first, pair.second};
    for (int i = 0; i < 2; ++i) {
      if (kept[i] != wanted[i]) blend(from.pixels + wanted[i] * from.pitch, rows_[i].data());
      kept[i] = wanted[i];
    }
    for (std::size_t x = 0; x < rows_[0].size(); ++x) {
      const std::int32_t upper = (pair.weight0 * (rows_[0][x] >> 4)) >> 16;
      const std::int32_t lower = (pair.weight1 * (rows_[1][x] >> 4)) >> 16;
      *out++ = static_cast<std::uint8_t>(std::clamp((upper + lower + 2) >> 2, 0, 255));
    }
  }
}

}  // namespace dedos::lib
