// The loops of the label map that are worth a version per instruction set.
#pragma once

#include <cstdint>

namespace dedos {

constexpr int kLanes = 8;   // output pixels evaluated together
constexpr int kBlock = 16;  // score cells examined together

// A slot that may win between four cells, with all that its victory would write.
struct Candidate {
  float top_left, top_right, bottom_left, bottom_right;
  float threshold;
  std::int32_t id;
};

// Enters slot k of a row of `count` cells: per cell the best score so far, its slot, the best score
// of the slots before that one, and the largest magnitude as the bits of a float.
void update_leaders(const float* values, std::int32_t k, int count, float* best, float* before,
                    std::int32_t* slot, std::int32_t* magnitude);

// Sets flags[kBlock] to 1 for the quads of cells where one slot's values exceed the bound of some
// corner. Reads kBlock + 1 values of the `top` and `bottom` row.
void flag_candidates(const float* top, const float* bottom, const float* top_left,
                     const float* top_right, const float* bottom_left, const float* bottom_right,
                     std::uint8_t* flags);

// Blends two numbers with a pair of weights per pixel.
void blend_constant(float a, float b, const float* weight0, const float* weight1, int count,
                    float* out);

// Blends two rows of pixels with one pair of weights.
void blend_rows(const float* a, const float* b, float weight0, float weight1, int count,
                float* out);

// Which candidate wins each of kLanes pixels of one row, and with what score. Candidates are in
// slot order, and earlier ones keep ties.
void elect(const Candidate* candidates, int count, const float* across0, const float* across1,
           float down0, float down1, float* winning, std::int32_t* winner);

// Writes `count` pixels: the id, or none where the value is below its threshold, and confidence.
void write_row(const float* value, const float* threshold, const std::int32_t* id, int count,
               std::uint8_t* ids, std::uint8_t* confidence);
void write_row(const float* value, const float* threshold, const std::int32_t* id, int count,
               std::uint16_t* ids, std::uint8_t* confidence);

}  // namespace dedos
