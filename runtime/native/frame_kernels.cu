// The CUDA side of a frame: resize before the engine, label map after it. Every kernel is a grid of
// independent calls of the functions in resize_pixel.h and label_pixel.h, which the tests prove on
// the CPU. Names are plain, so that a driver can look them up in the fat binary.
#include <cstdint>

#include "label_pixel.h"
#include "resize_pixel.h"

namespace {

using dedos::Half;
using dedos::kNone16;
using dedos::Leader;
using dedos::Rivals;

constexpr int kSharedCells = 1024;  // counts of up to so many ids are gathered per block
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ int row_of_thread() {
  return static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
}

__device__ __forceinline__ int column_of_thread() {
  return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

template <typename T>
__device__ void find_leaders(const dedos::ScoreMap<T>& scores, Leader* leaders,
                             unsigned long long* broken) {
  const int cell = column_of_thread();
  const int plane = scores.height * scores.width;
  if (cell >= plane) return;
  std::int32_t slot;
  leaders[cell] = dedos::leader_at(scores, cell, &slot);
  if (slot >= 0) {
    atomicMin(broken, static_cast<unsigned long long>(slot) * plane + cell);
  }
}

template <typename T>
__device__ void find_rivals(const dedos::ScoreMap<T>& scores, const Leader* leaders,
                            Rivals* rivals) {
  const int cell = column_of_thread();
  if (cell < scores.height * scores.width) {
    dedos::find_rivals(scores, leaders, cell, rivals + cell);
  }
}

// Neighbouring pixels mostly share an id, so a warp adds once per id that occurs in it.
__device__ void count_id(unsigned* counts, unsigned cell, bool counted) {
  const unsigned voters = __ballot_sync(kWholeWarp, counted);
  if (!counted) return;
  const unsigned peers = __match_any_sync(voters, cell);
  const unsigned lane = (threadIdx.y * blockDim.x + threadIdx.x) & 31u;
  if (lane == static_cast<unsigned>(__ffs(static_cast<int>(peers)) - 1)) {
    atomicAdd(counts + cell, static_cast<unsigned>(__popc(peers)));
  }
}

template <typename T, typename Id>
__device__ void label_pixels(const dedos::ScoreMap<T>& scores, const Leader* leaders,
                             const Rivals* rivals, const dedos::SlotTable& slots,
                             const dedos::LabelImage<Id>& image, unsigned* counts, int cells) {
  __shared__ unsigned gathered[kSharedCells];
  const bool gathers = cells <= kSharedCells;
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  if (gathers) {
    for (int i = thread; i < cells; i += threads) gathered[i] = 0;
    __syncthreads();
  }
  const int x = column_of_thread(), y = row_of_thread();
  const bool inside = x < image.width && y < image.height;
  unsigned cell = 0;
  if (inside) {
    const unsigned id = dedos::label_at(scores, leaders, rivals, slots, image, y, x);
    cell = id == kNone16 ? static_cast<unsigned>(cells) - 1 : id;
  }
  count_id(gathers ? gathered : counts, cell, inside);
  if (!gathers) return;
  __syncthreads();
  for (int i = thread; i < cells; i += threads) {
    if (gathered[i] != 0) atomicAdd(counts + i, gathered[i]);
  }
}

}  // namespace

extern "C" {

__global__ void __launch_bounds__(256)
    dedos_resize(const std::uint8_t* source, int source_height, int source_width,
                 std::uint8_t* out, int height, int width) {
  const int x = column_of_thread(), y = row_of_thread();
  if (x >= width || y >= height) return;
  const std::size_t pitch = static_cast<std::size_t>(source_width) * dedos::kChannels;
  const dedos::SourceImage image{source, source_height, source_width, pitch};
  const std::size_t pixel = static_cast<std::size_t>(y) * width + x;
  dedos::resize_at(image, y, x, height, width, out + pixel * dedos::kChannels);
}

#define DEDOS_LEADERS(name, T)                                                                   \
  __global__ void __launch_bounds__(256) name(const T* scores, int slots, int height, int width, \
                                              Leader* leaders, unsigned long long* broken) {     \
    find_leaders(dedos::ScoreMap<T>{scores, slots, height, width}, leaders, broken);             \
  }

#define DEDOS_RIVALS(name, T)                                                                    \
  __global__ void __launch_bounds__(256) name(const T* scores, int slots, int height, int width, \
                                              const Leader* leaders, Rivals* rivals) {           \
    find_rivals(dedos::ScoreMap<T>{scores, slots, height, width}, leaders, rivals);              \
  }

#define DEDOS_LABELS(name, T, Id)                                                                  \
  __global__ void __launch_bounds__(256)                                                           \
      name(const T* scores, int slots, int height, int width, const Leader* leaders,               \
           const Rivals* rivals, const float* thresholds, const std::uint16_t* slot_ids, Id* ids,  \
           std::uint8_t* confidence, int out_height, int out_width, unsigned* counts, int cells) { \
    label_pixels(dedos::ScoreMap<T>{scores, slots, height, width}, leaders, rivals,                \
                 dedos::SlotTable{thresholds, slot_ids},                                           \
                 dedos::LabelImage<Id>{ids, confidence, out_height, out_width}, counts, cells);    \
  }

DEDOS_LEADERS(dedos_leaders_f32, float)
DEDOS_LEADERS(dedos_leaders_f16, Half)
DEDOS_RIVALS(dedos_rivals_f32, float)
DEDOS_RIVALS(dedos_rivals_f16, Half)
DEDOS_LABELS(dedos_labels_f32_u8, float, std::uint8_t)
DEDOS_LABELS(dedos_labels_f32_u16, float, std::uint16_t)
DEDOS_LABELS(dedos_labels_f16_u8, Half, std::uint8_t)
DEDOS_LABELS(dedos_labels_f16_u16, Half, std::uint16_t)

}  // extern "C"
