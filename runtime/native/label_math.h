// The arithmetic of a label map: where an output pixel falls between score cells, the value there,
// and what is written for it. Every rounding is spelled out (explicit fma, one order of
// operations), so that any device and any instruction set gives the same bits, provided that the
// compiler adds no fma of its own (-ffp-contract=off, nvcc -fmad=false).
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace dedos {

constexpr std::uint16_t kNone16 = 65535;
constexpr std::uint8_t kNone8 = 255;

// An output coordinate between two neighbouring cells: `index` and the one after it, if any.
struct Tap {
  std::int32_t index;
  float weight0;
  float weight1;
};

// Half-pixel centres without corner alignment. The source coordinate is one fma and the blend below
// is fma(a, w0, b * w1), horizontal before vertical: this is what PyTorch's vectorised CPU kernels
// compute, bit for bit, which is what makes "the same labels" testable.
DEDOS_HOST_DEVICE inline Tap tap_at(std::int32_t output, float scale, std::int32_t cells) {
  float source = std::fma(scale, static_cast<float>(output) + 0.5f, -0.5f);
  source = source > 0.0f ? source : 0.0f;
  std::int32_t index = static_cast<std::int32_t>(source);
  index = index < cells ? index : cells - 1;
  float weight1 = source - static_cast<float>(index);
  weight1 = weight1 < 1.0f ? weight1 : 1.0f;
  return {index, 1.0f - weight1, weight1};
}

DEDOS_HOST_DEVICE inline float blend(float a, float b, float weight0, float weight1) {
  return std::fma(a, weight0, b * weight1);
}

// A lead in exact arithmetic that rounding cannot undo, for scores bounded by `magnitude`: a
// bilinear value is off by at most 4 half-ulps (2^-22 of it), two of them and an average of corner
// winners by less than 2^-20.
DEDOS_HOST_DEVICE inline float rounding_margin(float magnitude) {
  return magnitude * 0x1p-20f + 0x1p-120f;
}

// 255 * score, clipped to [0, 255] and rounded half to even: adding 1.5 * 2^23 leaves the integer
// in the low bits of the sum.
DEDOS_HOST_DEVICE inline std::uint8_t confidence_at(float score) {
  float clipped = score > 0.0f ? score : 0.0f;
  clipped = clipped < 1.0f ? clipped : 1.0f;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(clipped * 255.0f + 0x1.8p23f) & 255);
}

}  // namespace dedos
