// Vocabulary files: words with their text embeddings, as dedos_deploy/text/vocabulary_file.py
// writes them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "byte_source.h"

namespace dedos::lib {

struct VocabularyFile {
  std::vector<std::string> words;
  std::size_t width = 0;                        // D
  std::vector<float> rows;                      // [words][width], each of length 1
  std::map<std::string, std::string> metadata;  // also what the writer added

  // Throws Error (bad bundle, or unsupported version) naming what is wrong; name: what messages
  // call it.
  static VocabularyFile parse(const Bytes& bytes, const std::string& name);
};

}  // namespace dedos::lib
