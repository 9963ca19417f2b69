#include "label_loops.h"

#include <cstring>
#include <limits>

#include "label_math.h"
#include "multiversion.h"

namespace dedos {

DEDOS_MULTIVERSION
void update_leaders(const float* values, std::int32_t k, int count, float* best, float* before,
                    std::int32_t* slot, std::int32_t* magnitude) {
  for (int x = 0; x < count; ++x) {
    std::int32_t bits;
    std::memcpy(&bits, values + x, sizeof bits);
    bits &= 0x7fffffff;
    magnitude[x] = bits > magnitude[x] ? bits : magnitude[x];
    const bool leads = values[x] > best[x];
    before[x] = leads ? best[x] : before[x];
    best[x] = leads ? values[x] : best[x];
    slot[x] = leads ? k : slot[x];
  }
}

DEDOS_MULTIVERSION
void flag_candidates(const float* top, const float* bottom, const float* top_left,
                     const float* top_right, const float* bottom_left, const float* bottom_right,
                     std::uint8_t* flags) {
  for (int x = 0; x < kBlock; ++x) {
    flags[x] = (top[x] > top_left[x]) | (top[x + 1] > top_right[x]) | (bottom[x] > bottom_left[x]) |
               (bottom[x + 1] > bottom_right[x]);
  }
}

DEDOS_MULTIVERSION
void blend_constant(float a, float b, const float* weight0, const float* weight1, int count,
                    float* out) {
  for (int x = 0; x < count; ++x) out[x] = blend(a, b, weight0[x], weight1[x]);
}

DEDOS_MULTIVERSION
void blend_rows(const float* a, const float* b, float weight0, float weight1, int count,
                float* out) {
  for (int x = 0; x < count; ++x) out[x] = blend(a[x], b[x], weight0, weight1);
}

DEDOS_MULTIVERSION
void elect(const Candidate* candidates, int count, const float* across0, const float* across1,
           float down0, float down1, float* winning, std::int32_t* winner) {
  float value[kLanes];
  std::int32_t which[kLanes];
  for (int x = 0; x < kLanes; ++x) {
    value[x] = -std::numeric_limits<float>::infinity();
    which[x] = 0;
  }
  for (int c = 0; c < count; ++c) {
    const Candidate candidate = candidates[c];
    for (int x = 0; x < kLanes; ++x) {
      const float top = blend(candidate.top_left, candidate.top_right, across0[x], across1[x]);
      const float bottom =
          blend(candidate.bottom_left, candidate.bottom_right, across0[x], across1[x]);
      const float rival = blend(top, bottom, down0, down1);
      which[x] = rival > value[x] ? c : which[x];
      value[x] = rival > value[x] ? rival : value[x];
    }
  }
  std::memcpy(winning, value, sizeof value);
  std::memcpy(winner, which, sizeof which);
}

namespace {

template <typename Id>
inline void write_pixels(const float* value, const float* threshold, const std::int32_t* id,
                         int count, Id* ids, std::uint8_t* confidence) {
  for (int x = 0; x < count; ++x) {
    ids[x] = static_cast<Id>(value[x] < threshold[x] ? kNone16 : id[x]);
    confidence[x] = confidence_at(value[x]);
  }
}

}  // namespace

DEDOS_MULTIVERSION
void write_row(const float* value, const float* threshold, const std::int32_t* id, int count,
               std::uint8_t* ids, std::uint8_t* confidence) {
  write_pixels(value, threshold, id, count, ids, confidence);
}

DEDOS_MULTIVERSION
void write_row(const float* value, const float* threshold, const std::int32_t* id, int count,
               std::uint16_t* ids, std::uint8_t* confidence) {
  write_pixels(value, threshold, id, count, ids, confidence);
}

}  // namespace dedos
