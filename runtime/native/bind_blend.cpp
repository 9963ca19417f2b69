#include "bind_blend.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "arguments.h"
#include "blend.h"

namespace dedos {
namespace {

using nb::literals::operator""_a;

// Everything that is read by a coordinate lies within the score map.
void check_axis(const char* name, const Input& coordinates, const char* of_weights,
                const Input& weights, std::size_t cells) {
  check<double>(name, coordinates, 1);
  check<float>(of_weights, weights, 1);
  check_shape(of_weights, weights, name, 0, coordinates.shape(0));
  const auto* at = static_cast<const double*>(coordinates.data());
  const auto* weight = static_cast<const float*>(weights.data());
  for (std::size_t i = 0; i < coordinates.shape(0); ++i) {
    if (!(at[i] >= 0.0 && at[i] <= static_cast<double>(cells - 1))) {
      throw std::invalid_argument(std::string(name) + " has " + std::to_string(at[i]) + " at " +
                                  std::to_string(i) + ", but the scores go from 0 to " +
                                  std::to_string(cells - 1) + " there");
    }
    if (!std::isfinite(weight[i])) {
      throw std::invalid_argument(std::string(of_weights) + " must be finite, but are not at " +
                                  std::to_string(i));
    }
  }
}

WindowAxis axis_of(const Input& coordinates, const Input& weights) {
  return {static_cast<const double*>(coordinates.data()), static_cast<const float*>(weights.data()),
          static_cast<std::int32_t>(coordinates.shape(0))};
}

struct BlendArrays {
  Input scores, rows, columns, down, across;
  Output blended;

  void check() const {
    dedos::check<float>("scores", scores, 3);
    dedos::check<float>("blended", Input(blended), 3);
    check_axis("rows", rows, "down", down, scores.shape(1));
    check_axis("columns", columns, "across", across, scores.shape(2));
    check_shape("blended", Input(blended), "scores", 0, scores.shape(0));
    check_shape("blended", Input(blended), "rows", 1, rows.shape(0));
    check_shape("blended", Input(blended), "columns", 2, columns.shape(0));
    check_apart({{"scores", scores, false},
                 {"rows", rows, false},
                 {"columns", columns, false},
                 {"down", down, false},
                 {"across", across, false},
                 {"blended", Input(blended), true}});
  }
};

void blend(nb::handle scores, nb::handle rows, nb::handle columns, nb::handle down,
           nb::handle across, nb::handle blended, nb::handle threads) {
  const BlendArrays given{
      array_from<Input>("scores", scores),   array_from<Input>("rows", rows),
      array_from<Input>("columns", columns), array_from<Input>("down", down),
      array_from<Input>("across", across),   array_from<Output>("blended", blended)};
  given.check();
  const int workers = threads_from(threads);
  const Scores source{static_cast<const float*>(given.scores.data()),
                      static_cast<std::int32_t>(given.scores.shape(0)),
                      static_cast<std::int32_t>(given.scores.shape(1)),
                      static_cast<std::int32_t>(given.scores.shape(2))};
  const nb::gil_scoped_release release;
  blend_window(source, axis_of(given.rows, given.down), axis_of(given.columns, given.across),
               static_cast<float*>(given.blended.data()), workers);
}

}  // namespace

void bind_blend(nb::module_& module) {
  module.def("blend_window", &blend, "scores"_a.none(), "rows"_a.none(), "columns"_a.none(),
             "down"_a.none(), "across"_a.none(), "blended"_a.none(), "threads"_a.none());
}

}  // namespace dedos
