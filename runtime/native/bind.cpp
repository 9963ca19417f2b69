// Python binding: checks what numpy hands over, releases the GIL, calls the operation.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "arguments.h"
#include "bind_blend.h"
#include "bind_confidence.h"
#include "bind_parent.h"
#include "bind_regions.h"
#include "confusion.h"
#include "dlpack.h"
#include "label_map.h"
#include "label_math.h"
#include "majority.h"
#include "nv12.h"
#include "pixel_scores.h"
#include "stabilise.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using dedos::Input;
using dedos::Output;

void check_slots(const dedos::SlotTable& slots, std::size_t count, std::size_t cells,
                 std::uint16_t none) {
  for (std::size_t k = 0; k < count; ++k) {
    if (std::isnan(slots.thresholds[k])) {
      throw std::invalid_argument("thresholds must be numbers, but slot " + std::to_string(k) +
                                  " has NaN");
    }
    const std::uint16_t id = slots.ids[k];
    if (id == dedos::kNone16) continue;
    if (id >= none) {
      throw std::invalid_argument("slot " + std::to_string(k) + " has class id " +
                                  std::to_string(id) + ", which uint8 ids cannot hold beside 255 " +
                                  "for unlabelled pixels; pass ids as uint16");
    }
    if (id + std::size_t{1} >= cells) {
      throw std::invalid_argument("slot " + std::to_string(k) + " has class id " +
                                  std::to_string(id) + ", but counts has " + std::to_string(cells) +
                                  " cells, of which the last is for " +
                                  "unlabelled pixels; make it at least " + std::to_string(id + 2));
    }
  }
}

struct LabelArrays {
  Input scores, thresholds, slot_ids;
  Output ids, confidence, counts;

  bool wide() const { return ids.dtype() == nb::dtype<std::uint16_t>(); }

  void check() const {
    dedos::check<float>("scores", scores, 3);
    dedos::check<float>("thresholds", thresholds, 1);
    dedos::check<std::uint16_t>("slot_ids", slot_ids, 1);
    wide() ? dedos::check<std::uint16_t>("ids", Input(ids), 2)
           : dedos::check<std::uint8_t>("ids", Input(ids), 2);
    dedos::check<std::uint8_t>("confidence", Input(confidence), 2);
    dedos::check<std::uint64_t>("counts", Input(counts), 1);
    dedos::check_shape("thresholds", thresholds, "scores", 0, scores.shape(0));
    dedos::check_shape("slot_ids", slot_ids, "scores", 0, scores.shape(0));
    dedos::check_shape("confidence", Input(confidence), "ids", 0, ids.shape(0));
    dedos::check_shape("confidence", Input(confidence), "ids", 1, ids.shape(1));
    dedos::check_apart({{"scores", scores, false},
                        {"thresholds", thresholds, false},
                        {"slot_ids", slot_ids, false},
                        {"ids", Input(ids), true},
                        {"confidence", Input(confidence), true},
                        {"counts", Input(counts), true}});
  }
};

dedos::Scores scores_of(const Input& scores) {
  return {static_cast<const float*>(scores.data()), static_cast<std::int32_t>(scores.shape(0)),
          static_cast<std::int32_t>(scores.shape(1)), static_cast<std::int32_t>(scores.shape(2))};
}

template <typename Id>
void run(const LabelArrays& given, int threads) {
  const Input& scores = given.scores;
  const dedos::Scores source = scores_of(scores);
  const dedos::SlotTable slots{static_cast<const float*>(given.thresholds.data()),
                               static_cast<const std::uint16_t*>(given.slot_ids.data())};
  const dedos::LabelImage<Id> image{
      static_cast<Id*>(given.ids.data()), static_cast<std::uint8_t*>(given.confidence.data()),
      static_cast<std::int32_t>(given.ids.shape(0)), static_cast<std::int32_t>(given.ids.shape(1))};
  const std::size_t cells = given.counts.shape(0);
  check_slots(slots, scores.shape(0), cells, std::numeric_limits<Id>::max());
  const nb::gil_scoped_release release;
  dedos::label_map(source, slots, image, static_cast<std::uint64_t*>(given.counts.data()), cells,
                   threads);
}

void label_map(nb::handle scores, nb::handle thresholds, nb::handle slot_ids, nb::handle ids,
               nb::handle confidence, nb::handle counts, nb::handle threads) {
  const LabelArrays given{dedos::array_from<Input>("scores", scores),
                          dedos::array_from<Input>("thresholds", thresholds),
                          dedos::array_from<Input>("slot_ids", slot_ids),
                          dedos::array_from<Output>("ids", ids),
                          dedos::array_from<Output>("confidence", confidence),
                          dedos::array_from<Output>("counts", counts)};
  given.check();
  given.wide() ? run<std::uint16_t>(given, dedos::threads_from(threads))
               : run<std::uint8_t>(given, dedos::threads_from(threads));
}

std::int32_t side_from(const char* name, nb::handle given) {
  const std::int64_t side = dedos::integer_from(name, given);
  if (side >= 1 && side <= 1 << 24) return static_cast<std::int32_t>(side);
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(side) +
                              ", but a frame has 1 to 16777216");
}

void check_pixels(const Input& pixels, std::int32_t height, std::int32_t width) {
  const auto* at = static_cast<const std::int32_t*>(pixels.data());
  for (std::size_t i = 0; i < pixels.shape(0); ++i) {
    const std::int32_t y = at[2 * i], x = at[2 * i + 1];
    if (y >= 0 && y < height && x >= 0 && x < width) continue;
    throw std::out_of_range("pixel " + std::to_string(i) + " is row " + std::to_string(y) +
                            ", column " + std::to_string(x) + ", but the frame has " +
                            std::to_string(height) + " rows of " + std::to_string(width));
  }
}

void pixel_scores(nb::handle given_scores, nb::handle given_pixels, nb::handle given_height,
                  nb::handle given_width, nb::handle given_out) {
  const auto scores = dedos::array_from<Input>("scores", given_scores);
  const auto pixels = dedos::array_from<Input>("pixels", given_pixels);
  const auto out = dedos::array_from<Output>("out", given_out);
  const std::int32_t height = side_from("height", given_height);
  const std::int32_t width = side_from("width", given_width);
  dedos::check<float>("scores", scores, 3);
  dedos::check<std::int32_t>("pixels", pixels, 2);
  dedos::check<float>("out", Input(out), 2);
  dedos::check_shape("pixels", pixels, "row and column", 1, 2);
  dedos::check_shape("out", Input(out), "pixels", 0, pixels.shape(0));
  dedos::check_shape("out", Input(out), "scores", 1, scores.shape(0));
  dedos::check_apart(
      {{"scores", scores, false}, {"pixels", pixels, false}, {"out", Input(out), true}});
  check_pixels(pixels, height, width);
  const nb::gil_scoped_release release;
  dedos::pixel_scores(scores_of(scores), static_cast<const std::int32_t*>(pixels.data()),
                      pixels.shape(0), height, width, static_cast<float*>(out.data()));
}

// The matrix goes on from image to image, so a cell can be full before this one is counted.
void check_room(const Output& matrix, std::size_t pixels) {
  const auto* cells = static_cast<const std::int64_t*>(matrix.data());
  const std::int64_t most =
      std::numeric_limits<std::int64_t>::max() - static_cast<std::int64_t>(pixels);
  const std::int64_t* full =
      std::find_if(cells, cells + matrix.size(), [most](std::int64_t cell) { return cell > most; });
  if (full == cells + matrix.size()) return;
  throw std::invalid_argument("matrix holds " + std::to_string(*full) +
                              ", which leaves no room for the pixels of this image; begin with a "
                              "matrix of zeros");
}

template <typename Label, typename Prediction>
dedos::Mistake count(const Input& labels, const Input& predictions, const dedos::ConfusionIds& ids,
                     const Output& matrix) {
  const std::size_t pixels = labels.shape(0) * labels.shape(1);
  if (pixels > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("labels has shape " + dedos::shape_text(labels) +
                                ", but fewer than 2^32 pixels are counted at a time");
  }
  const nb::gil_scoped_release release;
  check_room(matrix, pixels);
  return dedos::confusion(static_cast<const Label*>(labels.data()),
                          static_cast<const Prediction*>(predictions.data()), pixels, ids,
                          static_cast<std::int64_t*>(matrix.data()));
}

// Ids may be of several types; without this the message of `check` would name only one of them.
template <typename Label>
dedos::Mistake count_any(const Input& labels, const Input& predictions,
                         const dedos::ConfusionIds& ids, const Output& matrix) {
  dedos::check<Label>("labels", labels, 2);
  if (predictions.dtype() == nb::dtype<std::uint16_t>()) {
    return count<Label, std::uint16_t>(labels, predictions, ids, matrix);
  }
  return count<Label, std::uint8_t>(labels, predictions, ids, matrix);
}

void confusion(nb::handle given_labels, nb::handle given_predictions, nb::handle given_matrix,
               nb::handle given_ignore, nb::handle given_unlabelled) {
  const auto labels = dedos::array_from<Input>("labels", given_labels);
  const auto predictions = dedos::array_from<Input>("predictions", given_predictions);
  const auto matrix = dedos::array_from<Output>("matrix", given_matrix);
  const std::int64_t ignore = dedos::integer_from("ignore", given_ignore);
  const std::int64_t unlabelled = dedos::integer_from("unlabelled", given_unlabelled);
  const bool wide = predictions.dtype() == nb::dtype<std::uint16_t>();
  dedos::check_id_type("labels", labels,
                       labels.dtype() == nb::dtype<std::uint8_t>() ||
                           labels.dtype() == nb::dtype<std::uint16_t>() ||
                           labels.dtype() == nb::dtype<std::int32_t>(),
                       "uint8, uint16 or int32");
  dedos::check_id_type("predictions", predictions,
                       wide || predictions.dtype() == nb::dtype<std::uint8_t>(), "uint8 or uint16");
  wide ? dedos::check<std::uint16_t>("predictions", predictions, 2)
       : dedos::check<std::uint8_t>("predictions", predictions, 2);
  dedos::check<std::int64_t>("matrix", Input(matrix), 2);
  dedos::check_shape("matrix", Input(matrix), "its number of rows", 1, matrix.shape(0) + 1);
  if (matrix.shape(0) >= dedos::kNone16) {  // of more, cells would not be counted in 32 bits
    throw std::invalid_argument("matrix has shape " + dedos::shape_text(Input(matrix)) +
                                ", but at most 65534 classes are counted");
  }
  if (labels.ndim() == 2) {
    dedos::check_shape("predictions", predictions, "labels", 0, labels.shape(0));
    dedos::check_shape("predictions", predictions, "labels", 1, labels.shape(1));
  }
  dedos::check_apart({{"labels", labels, false},
                      {"predictions", predictions, false},
                      {"matrix", Input(matrix), true}});
  const dedos::ConfusionIds ids{static_cast<std::int64_t>(matrix.shape(0)), ignore, unlabelled};
  const dedos::Mistake found = labels.dtype() == nb::dtype<std::int32_t>()
                                   ? count_any<std::int32_t>(labels, predictions, ids, matrix)
                               : labels.dtype() == nb::dtype<std::uint16_t>()
                                   ? count_any<std::uint16_t>(labels, predictions, ids, matrix)
                                   : count_any<std::uint8_t>(labels, predictions, ids, matrix);
  if (found.at == labels.shape(0) * labels.shape(1)) return;
  const std::size_t width = labels.shape(1);
  throw std::out_of_range(std::string(found.is_label ? "label" : "prediction") + " id " +
                          std::to_string(found.value) + " at row " +
                          std::to_string(found.at / width) + ", column " +
                          std::to_string(found.at % width) + " is out of range, the last one is " +
                          std::to_string(ids.classes - 1));
}

template <typename Id>
void shrink(const Input& ids, const Output& out) {
  dedos::check<Id>("out", Input(out), 2);
  for (std::size_t axis = 0; axis < 2; ++axis) {
    if (out.shape(axis) <= ids.shape(axis)) continue;
    throw std::invalid_argument("out has shape " + dedos::shape_text(Input(out)) +
                                ", but at most that of ids, " + dedos::shape_text(ids) +
                                ", is filled");
  }
  dedos::check_apart({{"ids", ids, false}, {"out", Input(out), true}});
  const auto size = [](const auto& array, std::size_t axis) {
    return static_cast<std::int64_t>(array.shape(axis));
  };
  const nb::gil_scoped_release release;
  dedos::majority(static_cast<const Id*>(ids.data()), size(ids, 0), size(ids, 1),
                  static_cast<Id*>(out.data()), size(out, 0), size(out, 1));
}

void majority(nb::handle given_ids, nb::handle given_out) {
  const auto ids = dedos::array_from<Input>("ids", given_ids);
  const auto out = dedos::array_from<Output>("out", given_out);
  dedos::check_ids(ids) ? shrink<std::uint16_t>(ids, out) : shrink<std::uint8_t>(ids, out);
}

void check_past(const char* name, const Input& past, const Input& scores) {
  dedos::check<float>(name, past, 3);
  for (std::size_t axis = 0; axis < 2; ++axis) {
    dedos::check_shape(name, past, "scores", axis, scores.shape(axis + 1));
  }
  dedos::check_shape(name, past, "whole lanes of all slots", 2,
                     dedos::past_stride(static_cast<std::int32_t>(scores.shape(0))));
}

struct StableArrays {
  Input scores, grey, past_grey, flow, past;
  Output smoothed, next;

  void check() const {
    dedos::check<float>("scores", scores, 3);
    dedos::check<std::uint8_t>("grey", grey, 2);
    dedos::check<std::uint8_t>("past_grey", past_grey, 2);
    dedos::check<float>("flow", flow, 3);
    dedos::check<float>("smoothed", Input(smoothed), 3);
    for (std::size_t axis = 0; axis < 2; ++axis) {
      dedos::check_shape("past_grey", past_grey, "grey", axis, grey.shape(axis));
      dedos::check_shape("flow", flow, "grey", axis, grey.shape(axis));
    }
    dedos::check_shape("flow", flow, "x and y", 2, 2);
    for (std::size_t axis = 0; axis < 3; ++axis) {
      dedos::check_shape("smoothed", Input(smoothed), "scores", axis, scores.shape(axis));
    }
    check_past("past", past, scores);
    check_past("next", Input(next), scores);
    dedos::check_apart({{"scores", scores, false},
                        {"grey", grey, false},
                        {"past_grey", past_grey, false},
                        {"flow", flow, false},
                        {"past", past, false},
                        {"smoothed", Input(smoothed), true},
                        {"next", Input(next), true}});
  }
};

float stabilise(nb::handle scores, nb::handle grey, nb::handle past_grey, nb::handle flow,
                nb::handle past, nb::handle smoothed, nb::handle next) {
  const StableArrays given{dedos::array_from<Input>("scores", scores),
                           dedos::array_from<Input>("grey", grey),
                           dedos::array_from<Input>("past_grey", past_grey),
                           dedos::array_from<Input>("flow", flow),
                           dedos::array_from<Input>("past", past),
                           dedos::array_from<Output>("smoothed", smoothed),
                           dedos::array_from<Output>("next", next)};
  given.check();
  const dedos::Motion motion{static_cast<const std::uint8_t*>(given.grey.data()),
                             static_cast<const std::uint8_t*>(given.past_grey.data()),
                             static_cast<const float*>(given.flow.data()),
                             static_cast<std::int32_t>(given.grey.shape(0)),
                             static_cast<std::int32_t>(given.grey.shape(1))};
  const nb::gil_scoped_release release;
  return dedos::stabilise(
      scores_of(given.scores), motion, static_cast<const float*>(given.past.data()),
      static_cast<float*>(given.smoothed.data()), static_cast<float*>(given.next.data()));
}

void remember(nb::handle given_scores, nb::handle given_past) {
  const auto scores = dedos::array_from<Input>("scores", given_scores);
  const auto past = dedos::array_from<Output>("past", given_past);
  dedos::check<float>("scores", scores, 3);
  check_past("past", Input(past), scores);
  dedos::check_apart({{"scores", scores, false}, {"past", Input(past), true}});
  const nb::gil_scoped_release release;
  dedos::remember(scores_of(scores), static_cast<float*>(past.data()));
}

// A plane as cameras give it: rows in one piece each, which may be apart.
void check_plane(const char* name, const Input& plane, std::size_t height, std::size_t width) {
  if (plane.dtype() != nb::dtype<std::uint8_t>() || plane.ndim() != 2 || plane.shape(0) != height ||
      plane.shape(1) != width) {
    throw std::invalid_argument(
        std::string(name) + " has dtype " + dedos::dtype_text(plane.dtype()) + " and shape " +
        dedos::shape_text(plane) + ", but uint8 [" + std::to_string(height) + ", " +
        std::to_string(width) + "] is needed");
  }
  if (plane.stride(1) != 1 && width > 1) {
    throw std::invalid_argument(std::string(name) +
                                " has pixels apart from each other; copy it with "
                                "numpy.ascontiguousarray first");
  }
}

void nv12_to_bgr(nb::handle given_luma, nb::handle given_chroma, nb::handle given_bgr,
                 nb::handle given_matrix) {
  const auto luma = dedos::array_from<Input>("luma", given_luma);
  const auto chroma = dedos::array_from<Input>("chroma", given_chroma);
  const auto bgr = dedos::array_from<Output>("bgr", given_bgr);
  const std::int64_t matrix = dedos::integer_from("matrix", given_matrix);
  dedos::check<std::uint8_t>("bgr", Input(bgr), 3);
  const std::size_t height = bgr.shape(0), width = bgr.shape(1);
  dedos::check_shape("bgr", Input(bgr), "a picture", 2, 3);
  if (height % 2 != 0 || width % 2 != 0) {
    throw std::invalid_argument("bgr has shape " + dedos::shape_text(Input(bgr)) +
                                ", but NV12 has even sizes only");
  }
  check_plane("luma", luma, height, width);
  check_plane("chroma", chroma, height / 2, width);
  if (matrix < 0 || matrix >= dedos::kYuvMatrices) {
    throw std::invalid_argument("matrix is " + std::to_string(matrix) + ", but 0 to 3 are known");
  }
  const dedos::Nv12Image image{static_cast<const std::uint8_t*>(luma.data()),
                               static_cast<const std::uint8_t*>(chroma.data()),
                               static_cast<std::int32_t>(height),
                               static_cast<std::int32_t>(width),
                               luma.stride(0),
                               chroma.stride(0),
                               dedos::yuv_matrix(static_cast<int>(matrix))};
  const nb::gil_scoped_release release;
  dedos::nv12_to_bgr(image, static_cast<std::uint8_t*>(bgr.data()));
}

}  // namespace

NB_MODULE(_native, module) {
  module.attr("__doc__") = "Operations of the runtime in C++.";
  module.def("label_map", &label_map, "scores"_a.none(), "thresholds"_a.none(), "slot_ids"_a.none(),
             "ids"_a.none(), "confidence"_a.none(), "counts"_a.none(), "threads"_a.none());
  module.def("pixel_scores", &pixel_scores, "scores"_a.none(), "pixels"_a.none(), "height"_a.none(),
             "width"_a.none(), "out"_a.none());
  module.def("confusion", &confusion, "labels"_a.none(), "predictions"_a.none(), "matrix"_a.none(),
             "ignore"_a.none(), "unlabelled"_a.none());
  module.def("majority", &majority, "ids"_a.none(), "out"_a.none());
  module.def("remember", &remember, "scores"_a.none(), "past"_a.none());
  module.def("stabilise", &stabilise, "scores"_a.none(), "grey"_a.none(), "past_grey"_a.none(),
             "flow"_a.none(), "past"_a.none(), "smoothed"_a.none(), "next"_a.none());
  module.attr("SCORE_LANES") = dedos::kScoreLanes;
  module.def("nv12_to_bgr", &nv12_to_bgr, "luma"_a.none(), "chroma"_a.none(), "bgr"_a.none(),
             "matrix"_a.none());
  dedos::bind_blend(module);
  dedos::bind_confidence(module);
  dedos::bind_parent(module);
  dedos::bind_regions(module);
  dedos::bind_dlpack(module);
}
