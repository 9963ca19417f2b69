// Headers of safetensors files: their tensors by name, and what the writer says of the file.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "byte_source.h"
#include "errors.h"
#include "json.h"

namespace dedos::lib {

// A format of ours, and what to do about files that cannot be used.
struct SafetensorsKind {
  const char* format;
  int latest;           // version
  const char* damaged;  // what to do about a damaged one
  const char* other;    // the same of one of another format
};

struct SafetensorsHeader {
  Json json;
  std::map<std::string, std::string> metadata;
  std::size_t end = 0;  // where the tensors begin

  // Throws Error (bad bundle, or unsupported version) naming what is wrong; name: what messages
  // call the file.
  static SafetensorsHeader parse(const Bytes& bytes, const SafetensorsKind& kind,
                                 const std::string& name);
};

Error damaged(const SafetensorsKind& kind, const std::string& name, const std::string& why);

}  // namespace dedos::lib
