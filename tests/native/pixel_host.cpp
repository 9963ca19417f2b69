// The functions that CUDA threads call, called in loops instead: what a kernel computes, on a CPU.
#include <cstring>

#include "label_pixel.h"
#include "resize_pixel.h"

namespace {

template <typename T, typename Id>
long long label(const T* values, const int* size, const float* thresholds, const std::uint16_t* ids,
                Id* out, std::uint8_t* confidence, const int* out_hw, unsigned* counts, int cells,
                dedos::Leader* leaders, dedos::Rivals* rivals) {
  const dedos::ScoreMap<T> scores{values, size[0], size[1], size[2]};
  const int plane = size[1] * size[2];
  long long broken = -1;
  for (int cell = 0; cell < plane; ++cell) {
    std::int32_t slot;
    leaders[cell] = dedos::leader_at(scores, cell, &slot);
    const long long at = static_cast<long long>(slot) * plane + cell;
    if (slot >= 0 && (broken < 0 || at < broken)) broken = at;
  }
  if (broken >= 0) return broken;
  for (int cell = 0; cell < plane; ++cell) {
    dedos::find_rivals(scores, leaders, cell, rivals + cell);
  }
  const dedos::LabelImage<Id> image{out, confidence, out_hw[0], out_hw[1]};
  for (int y = 0; y < out_hw[0]; ++y) {
    for (int x = 0; x < out_hw[1]; ++x) {
      const std::uint16_t id =
          dedos::label_at(scores, leaders, rivals, dedos::SlotTable{thresholds, ids}, image, y, x);
      ++counts[id == dedos::kNone16 ? cells - 1 : id];
    }
  }
  return -1;
}

}  // namespace

#define DEDOS_LABEL(name, T, Id)                                                                 \
  extern "C" long long name(const T* values, const int* size, const float* thresholds,           \
                            const std::uint16_t* ids, Id* out, std::uint8_t* confidence,         \
                            const int* out_hw, unsigned* counts, int cells,                      \
                            dedos::Leader* leaders, dedos::Rivals* rivals) {                     \
    return label(values, size, thresholds, ids, out, confidence, out_hw, counts, cells, leaders, \
                 rivals);                                                                        \
  }

DEDOS_LABEL(label_f32_u8, float, std::uint8_t)
DEDOS_LABEL(label_f32_u16, float, std::uint16_t)
DEDOS_LABEL(label_f16_u8, dedos::Half, std::uint8_t)
DEDOS_LABEL(label_f16_u16, dedos::Half, std::uint16_t)

extern "C" void resize(const std::uint8_t* source, int source_height, int source_width,
                       std::uint8_t* out, int height, int width) {
  const dedos::SourceImage image{source, source_height, source_width,
                                 static_cast<std::size_t>(source_width) * 3};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      dedos::resize_at(image, y, x, height, width, out + (y * width + x) * 3);
    }
  }
}

extern "C" void halves_to_floats(const std::uint16_t* bits, float* out, int count) {
  for (int i = 0; i < count; ++i) out[i] = dedos::as_float(dedos::Half{bits[i]});
}
