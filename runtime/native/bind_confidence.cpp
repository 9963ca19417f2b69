#include "bind_confidence.h"

#include "arguments.h"
#include "confidence_curves.h"

namespace dedos {
namespace {

using nb::literals::operator""_a;

void read_curves_of(nb::handle given_ids, nb::handle given_curves, nb::handle given_confidence) {
  const auto ids = array_from<Input>("ids", given_ids);
  const auto curves = array_from<Input>("curves", given_curves);
  const auto confidence = array_from<Output>("confidence", given_confidence);
  const bool wide = check_ids(ids);
  check<std::uint8_t>("curves", curves, 2);
  check<std::uint8_t>("confidence", Input(confidence), 2);
  check_shape("curves", curves, "a confidence", 1, kLevels);
  check_shape("confidence", Input(confidence), "ids", 0, ids.shape(0));
  check_shape("confidence", Input(confidence), "ids", 1, ids.shape(1));
  check_apart(
      {{"ids", ids, false}, {"curves", curves, false}, {"confidence", Input(confidence), true}});
  const auto* table = static_cast<const std::uint8_t*>(curves.data());
  const auto rows = static_cast<std::int32_t>(curves.shape(0));
  auto* values = static_cast<std::uint8_t*>(confidence.data());
  const std::size_t pixels = ids.shape(0) * ids.shape(1);
  const nb::gil_scoped_release release;
  wide ? read_curves(static_cast<const std::uint16_t*>(ids.data()), pixels, table, rows, values)
       : read_curves(static_cast<const std::uint8_t*>(ids.data()), pixels, table, rows, values);
}

}  // namespace

void bind_confidence(nb::module_& module) {
  module.def("read_curves", &read_curves_of, "ids"_a.none(), "curves"_a.none(),
             "confidence"_a.none());
}

}  // namespace dedos
