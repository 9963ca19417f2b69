// Python binding: checks what numpy hands over, releases the GIL, calls the operation.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "confusion.h"
#include "label_map.h"
#include "label_math.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using Input = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<nb::device::cpu>;

std::string shape_text(const Input& array) {
  std::string text = "[";
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    text += (i ? ", " : "") + std::to_string(array.shape(i));
  }
  return text + "]";
}

std::string dtype_text(nb::dlpack::dtype dtype) {
  const auto code = static_cast<nb::dlpack::dtype_code>(dtype.code);
  const char* kind = code == nb::dlpack::dtype_code::Float  ? "float"
                     : code == nb::dlpack::dtype_code::UInt ? "uint"
                     : code == nb::dlpack::dtype_code::Int  ? "int"
                                                            : "non-numeric, bits: ";
  return kind + std::to_string(dtype.bits);
}

bool contiguous(const Input& array) {
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
}

// One sentence for whatever keeps `array` from being a contiguous T array of `rank` dimensions.
template <typename T>
void check(const char* name, const Input& array, std::size_t rank) {
  const std::string which = name;
  if (array.dtype() != nb::dtype<T>()) {
    throw std::invalid_argument(which + " has dtype " + dtype_text(array.dtype()) + ", but " +
                                dtype_text(nb::dtype<T>()) + " is needed; convert it with astype");
  }
  if (array.ndim() != rank) {
    throw std::invalid_argument(which + " has shape " + shape_text(array) + ", but " +
                                std::to_string(rank) + " dimensions are needed");
  }
  for (std::size_t i = 0; i < rank; ++i) {
    // Pixel and cell positions are computed in float32, exact up to 2^24.
    if (array.shape(i) < 1 || array.shape(i) > (1u << 24)) {
      throw std::invalid_argument(which + " has shape " + shape_text(array) +
                                  ", but every dimension must be between 1 and 16777216");
    }
  }
  if (!contiguous(array)) {
    throw std::invalid_argument(which +
                                " is not C-contiguous; copy it with numpy.ascontiguousarray first");
  }
}

void check_shape(const char* name, const Input& array, const char* like, std::size_t axis,
                 std::size_t expected) {
  if (array.shape(axis) == expected) return;
  throw std::invalid_argument(std::string(name) + " has shape " + shape_text(array) + ", but " +
                              like + " needs " + std::to_string(expected) + " on axis " +
                              std::to_string(axis));
}

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

template <typename Id>
void run(const Input& scores, const dedos::SlotTable& slots, const Output& ids,
         const Output& confidence, const Output& counts, int threads) {
  const dedos::Scores source{
      static_cast<const float*>(scores.data()), static_cast<std::int32_t>(scores.shape(0)),
      static_cast<std::int32_t>(scores.shape(1)), static_cast<std::int32_t>(scores.shape(2))};
  const dedos::LabelImage<Id> image{
      static_cast<Id*>(ids.data()), static_cast<std::uint8_t*>(confidence.data()),
      static_cast<std::int32_t>(ids.shape(0)), static_cast<std::int32_t>(ids.shape(1))};
  const std::size_t cells = counts.shape(0);
  check_slots(slots, scores.shape(0), cells, std::numeric_limits<Id>::max());
  const nb::gil_scoped_release release;
  dedos::label_map(source, slots, image, static_cast<std::uint64_t*>(counts.data()), cells,
                   threads);
}

void label_map(const Input& scores, const Input& thresholds, const Input& slot_ids,
               const Output& ids, const Output& confidence, const Output& counts, int threads) {
  const bool wide = ids.dtype() == nb::dtype<std::uint16_t>();
  check<float>("scores", scores, 3);
  check<float>("thresholds", thresholds, 1);
  check<std::uint16_t>("slot_ids", slot_ids, 1);
  wide ? check<std::uint16_t>("ids", Input(ids), 2) : check<std::uint8_t>("ids", Input(ids), 2);
  check<std::uint8_t>("confidence", Input(confidence), 2);
  check<std::uint64_t>("counts", Input(counts), 1);
  check_shape("thresholds", thresholds, "scores", 0, scores.shape(0));
  check_shape("slot_ids", slot_ids, "scores", 0, scores.shape(0));
  check_shape("confidence", Input(confidence), "ids", 0, ids.shape(0));
  check_shape("confidence", Input(confidence), "ids", 1, ids.shape(1));
  if (threads < 1) {
    throw std::invalid_argument("threads is " + std::to_string(threads) +
                                ", but at least 1 is needed");
  }
  const dedos::SlotTable slots{static_cast<const float*>(thresholds.data()),
                               static_cast<const std::uint16_t*>(slot_ids.data())};
  if (wide) {
    run<std::uint16_t>(scores, slots, ids, confidence, counts, threads);
  } else {
    run<std::uint8_t>(scores, slots, ids, confidence, counts, threads);
  }
}

template <typename Label, typename Prediction>
dedos::Mistake count(const Input& labels, const Input& predictions, const dedos::ConfusionIds& ids,
                     const Output& matrix) {
  const std::size_t pixels = labels.shape(0) * labels.shape(1);
  if (pixels > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("labels has shape " + shape_text(labels) +
                                ", but fewer than 2^32 pixels are counted at a time");
  }
  const nb::gil_scoped_release release;
  return dedos::confusion(static_cast<const Label*>(labels.data()),
                          static_cast<const Prediction*>(predictions.data()), pixels, ids,
                          static_cast<std::int64_t*>(matrix.data()));
}

// Ids may be of several types; without this the message of `check` would name only one of them.
void check_id_type(const char* name, const Input& ids, bool fits, const char* needed) {
  if (fits) return;
  throw std::invalid_argument(std::string(name) + " has dtype " + dtype_text(ids.dtype()) +
                              ", but " + needed + " is needed; convert it with astype");
}

template <typename Label>
dedos::Mistake count_any(const Input& labels, const Input& predictions,
                         const dedos::ConfusionIds& ids, const Output& matrix) {
  check<Label>("labels", labels, 2);
  if (predictions.dtype() == nb::dtype<std::uint16_t>()) {
    return count<Label, std::uint16_t>(labels, predictions, ids, matrix);
  }
  return count<Label, std::uint8_t>(labels, predictions, ids, matrix);
}

void confusion(const Input& labels, const Input& predictions, const Output& matrix,
               std::int64_t ignore, std::int64_t unlabelled) {
  const bool wide = predictions.dtype() == nb::dtype<std::uint16_t>();
  check_id_type("labels", labels,
                labels.dtype() == nb::dtype<std::uint8_t>() ||
                    labels.dtype() == nb::dtype<std::uint16_t>() ||
                    labels.dtype() == nb::dtype<std::int32_t>(),
                "uint8, uint16 or int32");
  check_id_type("predictions", predictions,
                wide || predictions.dtype() == nb::dtype<std::uint8_t>(), "uint8 or uint16");
  wide ? check<std::uint16_t>("predictions", predictions, 2)
       : check<std::uint8_t>("predictions", predictions, 2);
  check<std::int64_t>("matrix", Input(matrix), 2);
  check_shape("matrix", Input(matrix), "its number of rows", 1, matrix.shape(0) + 1);
  if (matrix.shape(0) >= dedos::kNone16) {  // of more, cells would not be counted in 32 bits
    throw std::invalid_argument("matrix has shape " + shape_text(Input(matrix)) +
                                ", but at most 65534 classes are counted");
  }
  if (labels.ndim() == 2) {
    check_shape("predictions", predictions, "labels", 0, labels.shape(0));
    check_shape("predictions", predictions, "labels", 1, labels.shape(1));
  }
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

}  // namespace

NB_MODULE(_native, module) {
  module.attr("__doc__") = "Operations of the runtime in C++.";
  // Without noconvert, an array of another dtype or layout would be copied in silence.
  module.def("label_map", &label_map, "scores"_a.noconvert(), "thresholds"_a.noconvert(),
             "slot_ids"_a.noconvert(), "ids"_a.noconvert(), "confidence"_a.noconvert(),
             "counts"_a.noconvert(), "threads"_a);
  module.def("confusion", &confusion, "labels"_a.noconvert(), "predictions"_a.noconvert(),
             "matrix"_a.noconvert(), "ignore"_a, "unlabelled"_a);
}
