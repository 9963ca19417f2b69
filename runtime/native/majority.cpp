#include "majority.h"

#include <cstring>
#include <limits>
#include <vector>

namespace dedos {
namespace {

// How often each id occurred in the cell at hand, and which did.
template <typename Id>
class Votes {
 public:
  Votes() : counts_(std::size_t{std::numeric_limits<Id>::max()} + 1) {}

  void add(Id id, std::uint32_t pixels) {
    if (counts_[id] == 0) seen_.push_back(id);
    counts_[id] += pixels;
  }

  // The winner; forgets the cell.
  Id take() {
    Id best = seen_.front();
    for (const Id id : seen_) {
      if (counts_[id] > counts_[best] || (counts_[id] == counts_[best] && id < best)) best = id;
    }
    for (const Id id : seen_) counts_[id] = 0;
    seen_.clear();
    return best;
  }

 private:
  std::vector<std::uint32_t> counts_;
  std::vector<Id> seen_;
};

// Whether ids[0 .. count) all equal `id`.
template <typename Id>
bool all_equal(const Id* ids, std::int64_t count, Id id) {
  return ids[0] == id && std::memcmp(ids, ids + 1, (count - 1) * sizeof(Id)) == 0;
}

template <typename Id>
void vote(const Id* ids, std::int64_t count, Votes<Id>& votes) {
  for (std::int64_t begin = 0; begin < count;) {
    std::int64_t end = begin + 1;
    while (end < count && ids[end] == ids[begin]) ++end;
    votes.add(ids[begin], static_cast<std::uint32_t>(end - begin));
    begin = end;
  }
}

}  // namespace

template <typename Id>
void majority(const Id* ids, std::int64_t source_height, std::int64_t source_width, Id* out,
              std::int64_t height, std::int64_t width) {
  Votes<Id> votes;
  for (std::int64_t i = 0; i < height; ++i) {
    const std::int64_t top = i * source_height / height;
    const std::int64_t bottom = (i + 1) * source_height / height;
    for (std::int64_t j = 0; j < width; ++j) {
      const std::int64_t left = j * source_width / width;
      const std::int64_t count = (j + 1) * source_width / width - left;
      const Id* corner = ids + top * source_width + left;
      std::int64_t rows = 0;  // that are one id, as most cells are
      while (rows < bottom - top && all_equal(corner + rows * source_width, count, *corner)) ++rows;
      if (rows == bottom - top) {
        *out++ = *corner;
        continue;
      }
      for (std::int64_t y = top; y < bottom; ++y) vote(ids + y * source_width + left, count, votes);
      *out++ = votes.take();
    }
  }
}

template void majority(const std::uint8_t*, std::int64_t, std::int64_t, std::uint8_t*, std::int64_t,
                       std::int64_t);
template void majority(const std::uint16_t*, std::int64_t, std::int64_t, std::uint16_t*,
                       std::int64_t, std::int64_t);

}  // namespace dedos
