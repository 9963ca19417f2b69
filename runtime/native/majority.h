// A label map made smaller: each cell gets the id that most of its pixels have.
#pragma once

#include <cstdint>

namespace dedos {

// Cell (i, j) of height x width has the rows from i * source_height / height to (i + 1) * … / …,
// and the columns likewise; of equally frequent ids the lowest. Sizes are at least 1 and at most
// those of the source. Id is uint8_t or uint16_t.
template <typename Id>
void majority(const Id* ids, std::int64_t source_height, std::int64_t source_width, Id* out,
              std::int64_t height, std::int64_t width);

}  // namespace dedos
