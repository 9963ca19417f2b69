// Confidence read off curves: what a score of a class was worth where labels were known.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dedos {

constexpr std::int32_t kLevels = 256;  // of a confidence

// curves[rows][kLevels], contiguous: of the class ids below rows - 1 each its own, the last one for
// all others, such as that of an unlabelled pixel. Replaces every confidence by what its pixel's
// curve has for it. rows >= 1. Id is uint8_t or uint16_t.
template <typename Id>
void read_curves(const Id* ids, std::size_t pixels, const std::uint8_t* curves, std::int32_t rows,
                 std::uint8_t* confidence);

}  // namespace dedos
