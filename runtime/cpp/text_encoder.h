// Text embeddings of words: those that a bundle or a vocabulary file has, and the text tower for
// the rest.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "bundle.h"
#include "onnx_runtime.h"
#include "tokenizer.h"
#include "vocabulary_file.h"

namespace dedos::lib {

using Row = std::vector<float>;

class TextEncoder {
 public:
  // Both outlive the encoder.
  TextEncoder(const Bundle& bundle, const OnnxRuntime& runtime);

  // Takes over the words of a vocabulary file. Throws Error for one that was made for another text
  // tower, tokenizer or other templates.
  void know(const std::string& path);

  // The rows of words, [words][text width], each of length 1; from any thread. New words wait for
  // those of other calls. Throws Error (bad input) for a new word that is not plain ASCII or too
  // long.
  std::vector<float> encode(const std::vector<std::string>& words, int threads);

  // The base vocabulary of the bundle; none where it has none.
  const VocabularyFile* base() const { return base_.get(); }

 private:
  struct Kept {
    Row row;
    std::uint64_t used;
  };

  void know_shipped();
  bool collect(const std::vector<std::string>& keys, std::vector<float>& rows,
               std::vector<std::string>& missing);
  void encode_new(const std::vector<std::string>& words, int threads);
  std::vector<std::int64_t> tokens_of(const std::string& word, const std::string& sentence) const;
  void keep(const std::string& word, Row row);

  const Bundle& bundle_;
  const OnnxRuntime& runtime_;
  std::size_t width_;
  std::unique_ptr<VocabularyFile> base_;
  std::unique_ptr<Tokenizer> tokenizer_;        // once it was needed
  std::mutex reading_;                          // of the two below
  std::unordered_map<std::string, Row> known_;  // by canonical word
  std::unordered_map<std::string, Kept> others_;
  std::uint64_t uses_ = 0;
  std::mutex encoding_;
};

}  // namespace dedos::lib
