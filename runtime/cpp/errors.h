// Failures inside of libdedos: a status and one sentence; none crosses the C interface as an
// exception.
#pragma once

#include <stdexcept>
#include <string>

#include "dedos.h"

namespace dedos::lib {

// A fuzzer finds neither a SHA-256 nor a CRC, and what comes after them is to be met, too.
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr bool kHashesCount = false;
#else
constexpr bool kHashesCount = true;
#endif

struct Error : std::runtime_error {
  Error(dedos_status given, const std::string& sentence)
      : std::runtime_error(sentence), status(given) {}

  dedos_status status;
};

inline Error bad_input(const std::string& sentence) { return {DEDOS_BAD_INPUT, sentence}; }
inline Error bad_bundle(const std::string& sentence) { return {DEDOS_BAD_BUNDLE, sentence}; }
// For a file that a newer release wrote; what: the file and what it says of its version.
Error newer_version(const std::string& what, const std::string& version, int latest);
inline Error engine_error(const std::string& sentence) { return {DEDOS_ENGINE_ERROR, sentence}; }

// Text of a file or a caller between quotes on one line, shortened, with anything that is not plain
// ASCII written as a number.
std::string shown(const std::string& text, std::size_t limit = 80);

}  // namespace dedos::lib
