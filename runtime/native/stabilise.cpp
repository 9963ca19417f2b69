#include "stabilise.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "multiversion.h"

namespace dedos {
namespace {

// Chosen on videos by benchmarks/flicker.py. A cell takes over kHistory of its past where the
// picture differs by up to kSameGrey levels and the scores by up to kSameScore, nothing from
// kOtherGrey or kOtherScore on, and falls in a straight line between. Of pictures that have nothing
// to do with each other up to 0.36 seemed explained, of neighbours at least 0.57.
constexpr float kHistory = 0.85f;
constexpr float kSameGrey = 6.0f, kOtherGrey = 18.0f;
constexpr float kSameScore = 0.6f, kOtherScore = 0.9f;
constexpr float kLeastExplained = 0.45f;

// Slope of the cubic beside a neighbour, as OpenCV's: scores that were moved by linear
// interpolation, frame after frame, would lose thin things; -0.5 (Catmull-Rom) keeps them less
// well.
constexpr float kSharpness = -0.75f;
constexpr int kTaps = 4;  // along an axis

// What is known of one pixel, or on average around one cell: kError grey levels between the picture
// and the past one, moved by an offset of kX and kY. A vector, since most of what is done is to add
// them up.
typedef float Moved __attribute__((vector_size(4 * sizeof(float))));
enum { kError, kX, kY };

constexpr Moved kLost = {255.0f, 0.0f, 0.0f, 0.0f};

// 1 up to `same`, 0 from `other` on and for NaN.
inline float trust(float difference, float same, float other) {
  const float part = (other - difference) / (other - same);
  return part > 0.0f ? std::min(part, 1.0f) : 0.0f;
}

// Where a pixel or cell lies that `position` came from: the one before it and how far beyond.
struct Place {
  std::int32_t index;
  float beyond;
};

inline Place place_at(float position) {
  const float below = std::floor(position);
  return {static_cast<std::int32_t>(below), position - below};
}

// Whether a position is at most `margin` outside of `count` places; no NaN is.
inline bool within(float position, std::int32_t count, float margin) {
  return position >= -margin && position <= static_cast<float>(count - 1) + margin;
}

inline std::int32_t clamped(std::int32_t index, std::int32_t count) {
  return std::max(0, std::min(index, count - 1));
}

inline Moved moved_pixel(const Motion& motion, std::int32_t y, std::int32_t x) {
  const std::size_t pixel = static_cast<std::size_t>(y) * motion.width + x;
  const float across = motion.flow[2 * pixel], down = motion.flow[2 * pixel + 1];
  const float from_x = static_cast<float>(x) + across, from_y = static_cast<float>(y) + down;
  // A flow is never exact, so what seems to come from just outside may well be there still.
  if (!within(from_x, motion.width, 1.0f) || !within(from_y, motion.height, 1.0f)) return kLost;
  const Place left = place_at(from_x), top = place_at(from_y);
  float rows[2];
  for (int i = 0; i < 2; ++i) {
    const std::uint8_t* row =
        motion.past_grey +
        static_cast<std::size_t>(clamped(top.index + i, motion.height)) * motion.width;
    const float first = row[clamped(left.index, motion.width)];
    const float second = row[clamped(left.index + 1, motion.width)];
    rows[i] = first + left.beyond * (second - first);
  }
  const float past = rows[0] + top.beyond * (rows[1] - rows[0]);
  return Moved{std::fabs(past - static_cast<float>(motion.grey[pixel])), across, down, 0.0f};
}

DEDOS_MULTIVERSION
void move_row(const Motion& motion, std::int32_t y, Moved* row) {
  for (std::int32_t x = 0; x < motion.width; ++x) row[x] = moved_pixel(motion, y, x);
}

// The pixels around a cell: its own and one more on each side, so that a border which the flow
// misses by a pixel lends no trust.
struct Window {
  std::int32_t begin, end;
  float part;  // of one pixel
};

std::vector<Window> windows_of(std::int32_t cells, std::int32_t pixels) {
  const auto at = [&](std::int64_t edge) {
    return static_cast<std::int32_t>(edge * pixels / cells);
  };
  std::vector<Window> windows(cells);
  for (std::int32_t cell = 0; cell < cells; ++cell) {
    const std::int32_t first = at(cell), last = std::max(at(cell + std::int64_t{1}) - 1, first);
    const std::int32_t begin = std::max(first - 1, 0), end = std::min(last + 2, pixels);
    windows[cell] = {begin, end, 1.0f / static_cast<float>(end - begin)};
  }
  return windows;
}

// Means of what moved around every cell, [height][width] of the scores; the offsets in cells.
std::vector<Moved> moved_cells(const Motion& motion, std::int32_t height, std::int32_t width) {
  const std::vector<Window> columns = windows_of(width, motion.width);
  const std::vector<Window> rows = windows_of(height, motion.height);
  std::vector<Moved> across(static_cast<std::size_t>(motion.height) * width), pixels(motion.width);
  for (std::int32_t y = 0; y < motion.height; ++y) {
    move_row(motion, y, pixels.data());
    for (std::int32_t j = 0; j < width; ++j) {
      const Window& window = columns[j];
      Moved sum = {};
      for (std::int32_t x = window.begin; x < window.end; ++x) sum += pixels[x];
      across[static_cast<std::size_t>(y) * width + j] = sum * window.part;
    }
  }
  const float scale_x = static_cast<float>(width) / static_cast<float>(motion.width);
  const float scale_y = static_cast<float>(height) / static_cast<float>(motion.height);
  const Moved in_cells = {1.0f, scale_x, scale_y, 0.0f};
  std::vector<Moved> cells(static_cast<std::size_t>(height) * width);
  for (std::int32_t i = 0; i < height; ++i) {
    const Window& window = rows[i];
    Moved* row = cells.data() + static_cast<std::size_t>(i) * width;
    for (std::int32_t y = window.begin; y < window.end; ++y) {
      const Moved* from = across.data() + static_cast<std::size_t>(y) * width;
      for (std::int32_t j = 0; j < width; ++j) row[j] += from[j];
    }
    for (std::int32_t j = 0; j < width; ++j) row[j] *= in_cells * window.part;
  }
  return cells;
}

// Where the past of a cell lies along one axis: four neighbouring cells and their weights.
struct Taps {
  std::int32_t cells[kTaps];
  float weights[kTaps];
};

// Weights of the four places around one that lies `beyond` the second.
inline Taps taps_at(float position, std::int32_t count) {
  constexpr float a = kSharpness;
  const auto near = [](float d) { return ((a + 2.0f) * d - (a + 3.0f)) * d * d + 1.0f; };
  const auto far = [](float d) { return ((a * d - 5.0f * a) * d + 8.0f * a) * d - 4.0f * a; };
  const Place at = place_at(position);
  Taps taps;
  for (int i = 0; i < kTaps; ++i) taps.cells[i] = clamped(at.index + i - 1, count);
  taps.weights[0] = far(1.0f + at.beyond);
  taps.weights[1] = near(at.beyond);
  taps.weights[2] = near(1.0f - at.beyond);
  taps.weights[3] = far(2.0f - at.beyond);
  return taps;
}

// Where the past of a cell lies, and how far the picture vouches for it.
struct Source {
  Taps down, across;
  float trust;  // 0 has no past
};

// Of a row of cells; apart from the blending, so that it is done for several cells at once.
DEDOS_MULTIVERSION
void find_sources(const Scores& scores, const Moved* cells, std::int32_t i, Source* sources) {
  for (std::int32_t j = 0; j < scores.width; ++j) {
    float x = static_cast<float>(j) + cells[j][kX], y = static_cast<float>(i) + cells[j][kY];
    const bool inside = within(x, scores.width, 0.5f) && within(y, scores.height, 0.5f);
    x = inside ? x : 0.0f;
    y = inside ? y : 0.0f;
    sources[j] = {taps_at(y, scores.height), taps_at(x, scores.width),
                  inside ? trust(cells[j][kError], kSameGrey, kOtherGrey) : 0.0f};
  }
}

// Scores of one cell side by side, which the compiler keeps in registers of any width.
typedef float Lanes __attribute__((vector_size(kScoreLanes * sizeof(float))));
typedef std::int32_t LaneBits __attribute__((vector_size(kScoreLanes * sizeof(std::int32_t))));

// The past at a source, in `moved`, and how much it differs at most from `scores`: as bits, whose
// order is that of the numbers they are, NaN last.
inline std::int32_t move_past(const float* past, const Source& source, std::int32_t width,
                              const float* scores, std::int32_t stride, float* moved) {
  std::size_t rows[kTaps], columns[kTaps];
  for (int tap = 0; tap < kTaps; ++tap) {
    rows[tap] = static_cast<std::size_t>(source.down.cells[tap]) * width * stride;
    columns[tap] = static_cast<std::size_t>(source.across.cells[tap]) * stride;
  }
  LaneBits largest = {};
  for (std::int32_t k = 0; k < stride; k += kScoreLanes) {
    Lanes sum = {};
    for (int i = 0; i < kTaps; ++i) {
      Lanes row = {};
      for (int j = 0; j < kTaps; ++j) {
        Lanes from;
        std::memcpy(&from, past + rows[i] + columns[j] + k, sizeof from);
        row += source.across.weights[j] * from;
      }
      sum += source.down.weights[i] * row;
    }
    // Beside an edge the weights overshoot.
    const Lanes zero = {}, one = zero + 1.0f;
    sum = sum > zero ? sum : zero;
    sum = sum < one ? sum : one;
    std::memcpy(moved + k, &sum, sizeof sum);
    Lanes here;
    std::memcpy(&here, scores + k, sizeof here);
    const Lanes gap = sum - here;
    LaneBits bits;
    std::memcpy(&bits, &gap, sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  std::int32_t most[kScoreLanes];
  std::memcpy(most, &largest, sizeof largest);
  for (int half = kScoreLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) most[l] = std::max(most[l], most[l + half]);
  }
  return most[0];
}

// Blends a row of cells, cell by cell: `row` holds their scores on the way in and out.
DEDOS_MULTIVERSION
void blend_cells(const float* past, const Source* sources, std::int32_t width, std::int32_t stride,
                 float* moved, float* row) {
  for (std::int32_t j = 0; j < width; ++j, row += stride) {
    const Source& source = sources[j];
    if (source.trust == 0.0f) continue;
    const std::int32_t bits = move_past(past, source, width, row, stride, moved);
    float gap;
    std::memcpy(&gap, &bits, sizeof gap);
    const float part = kHistory * source.trust * trust(gap, kSameScore, kOtherScore);
    if (part == 0.0f) continue;
    for (std::int32_t k = 0; k < stride; ++k) row[k] += part * (moved[k] - row[k]);
  }
}

// Row `i` from planes to cells, and back. A block of slots at a time: a cell is met once for it.
void gather(const Scores& scores, std::int32_t i, std::int32_t stride, float* row) {
  const std::size_t plane = static_cast<std::size_t>(scores.height) * scores.width;
  const float* here = scores.values + static_cast<std::size_t>(i) * scores.width;
  for (std::int32_t k = 0; k < stride; k += kScoreLanes) {
    const float* from[kScoreLanes];
    for (int l = 0; l < kScoreLanes; ++l)
      from[l] = here + std::min(k + l, scores.slots - 1) * plane;
    const std::int32_t used = std::min(scores.slots - k, kScoreLanes);
    for (std::int32_t j = 0; j < scores.width; ++j) {
      float* to = row + static_cast<std::size_t>(j) * stride + k;
      for (int l = 0; l < kScoreLanes; ++l) to[l] = from[l][j];
      for (int l = used; l < kScoreLanes; ++l) to[l] = 0.0f;
    }
  }
}

void scatter(const float* row, const Scores& like, std::int32_t i, std::int32_t stride,
             float* smoothed) {
  const std::size_t plane = static_cast<std::size_t>(like.height) * like.width;
  float* here = smoothed + static_cast<std::size_t>(i) * like.width;
  std::int32_t k = 0;
  for (; k + 4 <= like.slots; k += 4) {
    float* to[4];
    for (int l = 0; l < 4; ++l) to[l] = here + (k + l) * plane;
    for (std::int32_t j = 0; j < like.width; ++j) {
      const float* from = row + static_cast<std::size_t>(j) * stride + k;
      for (int l = 0; l < 4; ++l) to[l][j] = from[l];
    }
  }
  for (; k < like.slots; ++k) {
    for (std::int32_t j = 0; j < like.width; ++j) {
      here[k * plane + j] = row[static_cast<std::size_t>(j) * stride + k];
    }
  }
}

}  // namespace

void remember(const Scores& scores, float* past) {
  const std::int32_t stride = past_stride(scores.slots);
  const std::size_t row = static_cast<std::size_t>(scores.width) * stride;
  for (std::int32_t i = 0; i < scores.height; ++i) gather(scores, i, stride, past + i * row);
}

float stabilise(const Scores& scores, const Motion& motion, const float* past, float* smoothed,
                float* next) {
  const std::vector<Moved> cells = moved_cells(motion, scores.height, scores.width);
  double sum = 0.0;
  for (const Moved& cell : cells) sum += trust(cell[kError], kSameGrey, kOtherGrey);
  const float explained = static_cast<float>(sum / static_cast<double>(cells.size()));
  const std::int32_t stride = past_stride(scores.slots);
  const std::size_t row = static_cast<std::size_t>(scores.width) * stride;
  std::vector<Source> sources(scores.width);
  std::vector<float> moved(stride);
  for (std::int32_t i = 0; i < scores.height; ++i) {
    gather(scores, i, stride, next + i * row);
    if (explained >= kLeastExplained) {
      const Moved* here = cells.data() + static_cast<std::size_t>(i) * scores.width;
      find_sources(scores, here, i, sources.data());
      blend_cells(past, sources.data(), scores.width, stride, moved.data(), next + i * row);
    }
    scatter(next + i * row, scores, i, stride, smoothed);
  }
  return explained;
}

}  // namespace dedos
