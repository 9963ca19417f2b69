// Words files: words whose embeddings were tuned on one model, as dedos_deploy/words_file.py writes
// them.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "byte_source.h"
#include "classes.h"
#include "manifest.h"
#include "text_encoder.h"

namespace dedos::lib {

class WordsFile {
 public:
  // Throws Error (bad input) naming what is wrong with the file, or that it was tuned on another
  // model than the manifest's.
  static WordsFile read(const std::string& path, const Manifest& manifest);

  // The same of a file's bytes; name: what messages call it.
  static WordsFile parse(const Bytes& bytes, const std::string& name);

  const std::vector<Entry>& entries() const { return entries_; }

  // The row of a word, nullptr where the file has none.
  const Row* find(const std::string& word) const;

 private:
  void check_model(const Manifest& manifest) const;

  std::string name_;
  std::string model_sha256_;
  std::size_t width_ = 0;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, Row> rows_;  // by canonical word
};

}  // namespace dedos::lib
