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

DEDOS_MULTIVERSION
void sum_across(const Moved* pixels, const Window* columns, std::int32_t width, Moved* row) {
  for (std::int32_t j = 0; j < width; ++j) {
    const Window& window = columns[j];
    Moved sum = {};
    for (std::int32_t x = window.begin; x < window.end; ++x) sum += pixels[x];
    row[j] = sum * window.part;
  }
}

DEDOS_MULTIVERSION
void add_row(const Moved* from, std::int32_t width, Moved* row) {
  for (std::int32_t j = 0; j < width; ++j) row[j] += from[j];
}

// Means of what moved around every cell, [height][width] of the scores; the offsets in cells.
std::vector<Moved> moved_cells(const Motion& motion, std::int32_t height, std::int32_t width) {
  const std::vector<Window> columns = windows_of(width, motion.width);
  const std::vector<Window> rows = windows_of(height, motion.height);
  const float scale_x = static_cast<float>(width) / static_cast<float>(motion.width);
  const float scale_y = static_cast<float>(height) / static_cast<float>(motion.height);
  const Moved in_cells = {1.0f, scale_x, scale_y, 0.0f};
  std::vector<Moved> across(width), pixels(motion.width);
  std::vector<Moved> cells(static_cast<std::size_t>(height) * width);
  // Rows of cells whose windows meet one row of pixels follow each other.
  std::int32_t first = 0;
  for (std::int32_t y = 0; y < motion.height; ++y) {
    move_row(motion, y, pixels.data());
    sum_across(pixels.data(), columns.data(), width, across.data());
    while (rows[first].end <= y) ++first;
    for (std::int32_t i = first; i < height && rows[i].begin <= y; ++i) {
      add_row(across.data(), width, cells.data() + static_cast<std::size_t>(i) * width);
    }
  }
  for (std::int32_t i = 0; i < height; ++i) {
    const Moved part = in_cells * rows[i].part;
    Moved* row = cells.data() + static_cast<std::size_t>(i) * width;
    for (std::int32_t j = 0; j < width; ++j) row[j] *= part;
  }
  return cells;
}

constexpr int kRun = 16;  // cells of a row whose sources are found at once

// Where the past of some neighbouring cells lies, and how far the picture vouches for it: four
// rows and four columns of cells each, and their weights.
struct Sources {
  std::int32_t rows[kTaps][kRun], columns[kTaps][kRun];
  float down[kTaps][kRun], across[kTaps][kRun];
  float trust[kRun];  // 0 has no past
};

// Places and weights along one axis: of the four places around one that lies `beyond` the second.
inline void taps_at(float position, std::int32_t count, int cell, std::int32_t (*places)[kRun],
                    float (*weights)[kRun]) {
  constexpr float a = kSharpness;
  const auto near = [](float d) { return ((a + 2.0f) * d - (a + 3.0f)) * d * d + 1.0f; };
  const auto far = [](float d) { return ((a * d - 5.0f * a) * d + 8.0f * a) * d - 4.0f * a; };
  const Place at = place_at(position);
  for (int i = 0; i < kTaps; ++i) places[i][cell] = clamped(at.index + i - 1, count);
  weights[0][cell] = far(1.0f + at.beyond);
  weights[1][cell] = near(at.beyond);
  weights[2][cell] = near(1.0f - at.beyond);
  weights[3][cell] = far(2.0f - at.beyond);
}

// Of the cells of row `i` from `begin` on, as many as there are; apart from the blending, so that
// it is done for several cells at once.
DEDOS_MULTIVERSION
void find_sources(const Scores& scores, const Moved* row, std::int32_t i, std::int32_t begin,
                  Sources* sources) {
  const std::int32_t height = scores.height, width = scores.width;
  Moved cells[kRun];
  std::memcpy(cells, row + begin, std::min(width - begin, kRun) * sizeof(Moved));
  for (int c = std::min(width - begin, kRun); c < kRun; ++c) cells[c] = kLost;
  for (int c = 0; c < kRun; ++c) {
    float x = static_cast<float>(begin + c) + cells[c][kX];
    float y = static_cast<float>(i) + cells[c][kY];
    const bool inside = within(x, width, 0.5f) && within(y, height, 0.5f);
    x = inside ? x : 0.0f;
    y = inside ? y : 0.0f;
    taps_at(y, height, c, sources->rows, sources->down);
    taps_at(x, width, c, sources->columns, sources->across);
    sources->trust[c] = inside ? trust(cells[c][kError], kSameGrey, kOtherGrey) : 0.0f;
  }
}

// Scores of one cell side by side, which the compiler keeps in registers of any width.
template <int kLanes>
struct Block {
  typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
  typedef std::int32_t Bits __attribute__((vector_size(kLanes * sizeof(std::int32_t))));
};

template <int kLanes>
inline std::int32_t largest_of(const std::int32_t* bits) {
  if constexpr (kLanes == 2) {
    return std::max(bits[0], bits[1]);
  } else {
    constexpr int kHalf = kLanes / 2;
    typename Block<kHalf>::Bits first, second;
    std::memcpy(&first, bits, sizeof first);
    std::memcpy(&second, bits + kHalf, sizeof second);
    first = first > second ? first : second;
    std::int32_t most[kHalf];
    std::memcpy(most, &first, sizeof first);
    return largest_of<kHalf>(most);
  }
}

// Where the past of one cell lies in memory: rows, and columns within them.
struct Taps {
  const float* rows[kTaps];
  std::size_t columns[kTaps];
  float down[kTaps], across[kTaps];
};

inline Taps taps_of(const float* past, const Sources& sources, std::int32_t c, std::int32_t width,
                    std::int32_t stride) {
  Taps taps;
  for (int i = 0; i < kTaps; ++i) {
    taps.rows[i] = past + static_cast<std::size_t>(sources.rows[i][c]) * width * stride;
    taps.columns[i] = static_cast<std::size_t>(sources.columns[i][c]) * stride;
    taps.down[i] = sources.down[i][c];
    taps.across[i] = sources.across[i][c];
  }
  return taps;
}

// A block of the past, from score `k` on, goes to `moved`; returns how much it differs at most from
// `scores`: as bits, whose order is that of the numbers they are, NaN last.
template <int kLanes>
inline std::int32_t move_block(const Taps& taps, std::int32_t k, const float* scores,
                               float* moved) {
  using Lanes = typename Block<kLanes>::Lanes;
  using Bits = typename Block<kLanes>::Bits;
  Lanes sum = {};
  for (int i = 0; i < kTaps; ++i) {
    Lanes row = {};
    for (int j = 0; j < kTaps; ++j) {
      Lanes from;
      std::memcpy(&from, taps.rows[i] + taps.columns[j] + k, sizeof from);
      row += taps.across[j] * from;
    }
    sum += taps.down[i] * row;
  }
  // Beside an edge the weights overshoot.
  const Lanes zero = {}, one = zero + 1.0f;
  sum = sum > zero ? sum : zero;
  sum = sum < one ? sum : one;
  std::memcpy(moved + k, &sum, sizeof sum);
  Lanes here;
  std::memcpy(&here, scores + k, sizeof here);
  const Lanes gap = sum - here;
  Bits bits;
  std::memcpy(&bits, &gap, sizeof bits);
  bits &= 0x7fffffff;
  std::int32_t most[kLanes];
  std::memcpy(most, &bits, sizeof bits);
  return largest_of<kLanes>(most);
}

// Blends some cells of a row: `row` holds their scores on the way in and out, `moved` has room for
// as many.
DEDOS_MULTIVERSION
void blend_cells(const float* past, const Sources& sources, std::int32_t cells, std::int32_t width,
                 std::int32_t stride, float* moved, float* row) {
  std::int32_t bits[kRun] = {};
  for (std::int32_t c = 0; c < cells; ++c) {
    if (sources.trust[c] == 0.0f) continue;
    const Taps taps = taps_of(past, sources, c, width, stride);
    const float* here = row + static_cast<std::size_t>(c) * stride;
    float* there = moved + static_cast<std::size_t>(c) * stride;
    std::int32_t k = 0;
    for (; k + 2 * kScoreLanes <= stride; k += 2 * kScoreLanes) {
      bits[c] = std::max(bits[c], move_block<2 * kScoreLanes>(taps, k, here, there));
    }
    if (k < stride) bits[c] = std::max(bits[c], move_block<kScoreLanes>(taps, k, here, there));
  }
  float gaps[kRun], parts[kRun];
  std::memcpy(gaps, bits, sizeof gaps);
  for (int c = 0; c < kRun; ++c) {
    parts[c] = kHistory * sources.trust[c] * trust(gaps[c], kSameScore, kOtherScore);
  }
  for (std::int32_t c = 0; c < cells; ++c, row += stride, moved += stride) {
    if (parts[c] == 0.0f) continue;
    for (std::int32_t k = 0; k < stride; ++k) row[k] += parts[c] * (moved[k] - row[k]);
  }
}

typedef float Four __attribute__((vector_size(4 * sizeof(float))));

#ifdef __clang__
#define DEDOS_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef std::int32_t FourPlaces __attribute__((vector_size(4 * sizeof(std::int32_t))));
#define DEDOS_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, FourPlaces{i, j, k, l})
#endif

// to[c * to_step + r] = from[r * from_step + c], of four rows and columns.
inline void transpose(const float* from, std::size_t from_step, float* to, std::size_t to_step) {
  Four rows[4];
  for (int r = 0; r < 4; ++r) std::memcpy(&rows[r], from + r * from_step, sizeof(Four));
  const Four a = DEDOS_SHUFFLE(rows[0], rows[1], 0, 4, 1, 5);
  const Four b = DEDOS_SHUFFLE(rows[2], rows[3], 0, 4, 1, 5);
  const Four c = DEDOS_SHUFFLE(rows[0], rows[1], 2, 6, 3, 7);
  const Four d = DEDOS_SHUFFLE(rows[2], rows[3], 2, 6, 3, 7);
  const Four columns[4] = {DEDOS_SHUFFLE(a, b, 0, 1, 4, 5), DEDOS_SHUFFLE(a, b, 2, 3, 6, 7),
                           DEDOS_SHUFFLE(c, d, 0, 1, 4, 5), DEDOS_SHUFFLE(c, d, 2, 3, 6, 7)};
  for (int r = 0; r < 4; ++r) std::memcpy(to + r * to_step, &columns[r], sizeof(Four));
}

// Row `i` from planes to cells, and back; four slots at a time.
void gather(const Scores& scores, std::int32_t i, std::int32_t stride, float* row) {
  const std::size_t plane = static_cast<std::size_t>(scores.height) * scores.width;
  const float* here = scores.values + static_cast<std::size_t>(i) * scores.width;
  for (std::int32_t k = 0; k < stride; k += 4) {
    std::int32_t j = 0;
    for (; k + 4 <= scores.slots && j + 4 <= scores.width; j += 4) {
      transpose(here + k * plane + j, plane, row + static_cast<std::size_t>(j) * stride + k,
                stride);
    }
    for (; j < scores.width; ++j) {
      for (std::int32_t l = k; l < k + 4; ++l) {
        row[static_cast<std::size_t>(j) * stride + l] =
            l < scores.slots ? here[l * plane + j] : 0.0f;
      }
    }
  }
}

void scatter(const float* row, const Scores& like, std::int32_t i, std::int32_t stride,
             float* smoothed) {
  const std::size_t plane = static_cast<std::size_t>(like.height) * like.width;
  float* here = smoothed + static_cast<std::size_t>(i) * like.width;
  for (std::int32_t k = 0; k < like.slots; k += 4) {
    std::int32_t j = 0;
    for (; k + 4 <= like.slots && j + 4 <= like.width; j += 4) {
      transpose(row + static_cast<std::size_t>(j) * stride + k, stride, here + k * plane + j,
                plane);
    }
    for (; j < like.width; ++j) {
      for (std::int32_t l = k; l < std::min(k + 4, like.slots); ++l) {
        here[l * plane + j] = row[static_cast<std::size_t>(j) * stride + l];
      }
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
  Sources sources;
  std::vector<float> moved(static_cast<std::size_t>(kRun) * stride);
  for (std::int32_t i = 0; i < scores.height; ++i) {
    gather(scores, i, stride, next + i * row);
    if (explained >= kLeastExplained) {
      const Moved* here = cells.data() + static_cast<std::size_t>(i) * scores.width;
      for (std::int32_t j = 0; j < scores.width; j += kRun) {
        find_sources(scores, here, i, j, &sources);
        blend_cells(past, sources, std::min(scores.width - j, kRun), scores.width, stride,
                    moved.data(), next + i * row + static_cast<std::size_t>(j) * stride);
      }
    }
    scatter(next + i * row, scores, i, stride, smoothed);
  }
  return explained;
}

}  // namespace dedos
