// What the functions of bind.cpp need of the arrays that they are given; each check throws one
// sentence, which Python sees as TypeError or ValueError.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <thread>

namespace dedos {

namespace nb = nanobind;

using Input = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<nb::device::cpu>;

// `given` as an array, without a conversion: an array of another dtype or layout would be copied in
// silence. Array is Input, or Output for what is written to.
template <typename Array>
Array array_from(const char* name, nb::handle given) {
  Array array;
  if (nb::try_cast(given, array, /*convert=*/false)) return array;
  Input readable;
  const char* why = nb::try_cast(given, readable, /*convert=*/false)
                        ? "is read-only, but results are written to it; make it writable"
                    : nb::hasattr(given, "__dlpack__")
                        ? "is an array that cannot be used here; one of plain numbers in this "
                          "machine's byte order and memory is needed"
                        : "is no array; a numpy array is needed";
  throw nb::type_error((std::string(name) + " " + why).c_str());
}

inline std::int64_t integer_from(const char* name, nb::handle given) {
  std::int64_t value = 0;
  if (nb::try_cast(given, value)) return value;
  throw nb::type_error((std::string(name) + " must be a whole number of 64 bits").c_str());
}

// Cores that this process may run on; more threads than that only wait for each other.
inline int usable_cores() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

inline int threads_from(nb::handle given) {
  const std::int64_t asked = integer_from("threads", given);
  if (asked < 1) {
    throw std::invalid_argument("threads is " + std::to_string(asked) +
                                ", but at least 1 is needed");
  }
  return static_cast<int>(std::min<std::int64_t>(asked, usable_cores()));
}

inline std::string shape_text(const Input& array) {
  std::string text = "[";
  for (std::size_t i = 0; i < array.ndim(); ++i) {
    text += (i ? ", " : "") + std::to_string(array.shape(i));
  }
  return text + "]";
}

inline std::string dtype_text(nb::dlpack::dtype dtype) {
  const auto code = static_cast<nb::dlpack::dtype_code>(dtype.code);
  const char* kind = code == nb::dlpack::dtype_code::Float  ? "float"
                     : code == nb::dlpack::dtype_code::UInt ? "uint"
                     : code == nb::dlpack::dtype_code::Int  ? "int"
                                                            : "non-numeric, bits: ";
  return kind + std::to_string(dtype.bits);
}

inline bool contiguous(const Input& array) {
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
}

// Whatever keeps `array` from being an aligned, contiguous T array of `rank` dimensions.
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
  // A view into a packed record or a file may begin anywhere; vector loads may not.
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    throw std::invalid_argument(which + " begins at an address that no multiple of " +
                                std::to_string(alignof(T)) +
                                " bytes reaches; use memory of its own, as array.copy() makes");
  }
}

inline void check_id_type(const char* name, const Input& ids, bool fits, const char* needed) {
  if (fits) return;
  throw std::invalid_argument(std::string(name) + " has dtype " + dtype_text(ids.dtype()) +
                              ", but " + needed + " is needed; convert it with astype");
}

// Whatever keeps `ids` from being a label map; whether its ids are wide.
inline bool check_ids(const Input& ids) {
  const bool wide = ids.dtype() == nb::dtype<std::uint16_t>();
  check_id_type("ids", ids, wide || ids.dtype() == nb::dtype<std::uint8_t>(), "uint8 or uint16");
  wide ? check<std::uint16_t>("ids", ids, 2) : check<std::uint8_t>("ids", ids, 2);
  return wide;
}

inline void check_shape(const char* name, const Input& array, const char* like, std::size_t axis,
                        std::size_t expected) {
  if (array.shape(axis) == expected) return;
  throw std::invalid_argument(std::string(name) + " has shape " + shape_text(array) + ", but " +
                              like + " needs " + std::to_string(expected) + " on axis " +
                              std::to_string(axis));
}

// Bytes of a contiguous array, and whether they are written to.
struct Span {
  const char* name;
  std::uintptr_t begin;
  std::uintptr_t end;
  bool written;

  Span(const char* of, const Input& array, bool is_written)
      : name(of),
        begin(reinterpret_cast<std::uintptr_t>(array.data())),
        end(begin + array.nbytes()),
        written(is_written) {}
};

// Loops read and write in blocks and on several threads: what is written is nobody else's memory.
inline void check_apart(std::initializer_list<Span> spans) {
  for (const Span* one = spans.begin(); one != spans.end(); ++one) {
    for (const Span* other = spans.begin(); other != one; ++other) {
      if (!one->written && !other->written) continue;
      if (one->begin >= other->end || other->begin >= one->end) continue;
      throw std::invalid_argument(std::string(one->name) + " shares memory with " + other->name +
                                  "; give it memory of its own");
    }
  }
}

}  // namespace dedos
