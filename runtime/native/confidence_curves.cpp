#include "confidence_curves.h"

#include <algorithm>

namespace dedos {

template <typename Id>
void read_curves(const Id* ids, std::size_t pixels, const std::uint8_t* curves, std::int32_t rows,
                 std::uint8_t* confidence) {
  const std::int32_t last = rows - 1;
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::int32_t row = std::min<std::int32_t>(ids[i], last);
    confidence[i] = curves[static_cast<std::size_t>(row) * kLevels + confidence[i]];
  }
}

template void read_curves(const std::uint8_t*, std::size_t, const std::uint8_t*, std::int32_t,
                          std::uint8_t*);
template void read_curves(const std::uint16_t*, std::size_t, const std::uint8_t*, std::int32_t,
                          std::uint8_t*);

}  // namespace dedos
