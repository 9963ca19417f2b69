#include "bind_regions.h"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "regions.h"

namespace dedos {
namespace {

using nb::literals::operator""_a;

// Rows of a vector as a numpy array, [rows, Number of a row's fields]; it takes the vector over.
template <typename Number, typename Row>
nb::object array_of(std::vector<Row> rows) {
  auto* kept = new std::vector<Row>(std::move(rows));
  const nb::capsule owner(kept,
                          [](void* held) noexcept { delete static_cast<std::vector<Row>*>(held); });
  return nb::cast(nb::ndarray<nb::numpy, Number, nb::ndim<2>>(
      kept->data(), {kept->size(), sizeof(Row) / sizeof(Number)}, owner));
}

template <typename Id>
IdMap<Id> map_of(const Input& ids) {
  return {static_cast<const Id*>(ids.data()), static_cast<std::int64_t>(ids.shape(0)),
          static_cast<std::int64_t>(ids.shape(1))};
}

// As check_ids, and whatever keeps the pixels from being numbered.
bool check_numbered(const Input& ids) {
  const bool wide = check_ids(ids);
  if (ids.shape(0) * ids.shape(1) > std::size_t{std::numeric_limits<std::int32_t>::max()}) {
    throw std::invalid_argument("ids has shape " + shape_text(ids) +
                                ", but at most 2147483647 pixels are numbered");
  }
  return wide;
}

nb::object connect_any(nb::handle given_ids) {
  const auto ids = array_from<Input>("ids", given_ids);
  const bool wide = check_numbered(ids);
  std::vector<Region> found;
  {
    const nb::gil_scoped_release release;
    found = wide ? connect(map_of<std::uint16_t>(ids)) : connect(map_of<std::uint8_t>(ids));
  }
  return array_of<std::int64_t>(std::move(found));
}

nb::object outline_any(nb::handle given_ids, nb::handle given_wanted, nb::handle min_area) {
  const auto ids = array_from<Input>("ids", given_ids);
  const auto flags = array_from<Input>("wanted", given_wanted);
  const bool wide = check_numbered(ids);
  check<std::uint8_t>("wanted", flags, 1);
  const Wanted wanted{static_cast<const std::uint8_t*>(flags.data()),
                      static_cast<std::int64_t>(flags.shape(0)),
                      integer_from("min_area", min_area)};
  Outlines found;
  {
    const nb::gil_scoped_release release;
    found = wide ? outline(map_of<std::uint16_t>(ids), wanted)
                 : outline(map_of<std::uint8_t>(ids), wanted);
  }
  return nb::make_tuple(array_of<std::int32_t>(std::move(found.points)),
                        array_of<std::int64_t>(std::move(found.lines)));
}

}  // namespace

void bind_regions(nb::module_& module) {
  module.def("connect", &connect_any, "ids"_a.none());
  module.def("outline", &outline_any, "ids"_a.none(), "wanted"_a.none(), "min_area"_a.none());
}

}  // namespace dedos
