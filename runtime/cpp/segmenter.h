// A bundle at work: class lists in, frames in, label maps out.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.h"
#include "curves_file.h"
#include "dedos.h"
#include "onnx_runtime.h"
#include "resize.h"
#include "slots.h"
#include "text_encoder.h"
#include "words_file.h"

namespace dedos::lib {

// What came of a frame; buffers are used again.
struct Result {
  std::shared_ptr<const SlotTable> table;  // none: it holds nothing
  std::int32_t height = 0, width = 0;
  std::vector<std::uint8_t> narrow;
  std::vector<std::uint16_t> wide;
  std::vector<std::uint8_t> confidence;
  std::vector<std::uint64_t> cells;  // pixels per class id, unlabelled ones in the last
  std::vector<std::int64_t> counts;
  double pre_ms = 0.0, engine_ms = 0.0, post_ms = 0.0;
};

// All of this may be called from any thread.
class Segmenter {
 public:
  // classes: nullptr for those of options.words_file.
  Segmenter(const std::string& bundle, const char* classes, const dedos_options& options);

  std::int64_t set_classes(const std::string& classes);
  std::int64_t set_words_file(const std::string& path);
  void segment(const dedos_frame& frame, Result& result);
  const Manifest& manifest() const { return bundle_.manifest(); }

 private:
  const VocabularyFile* negatives(dedos_background background) const;
  void check_tiles(bool ignored) const;
  void open_graph();
  void check_graph() const;
  std::shared_ptr<const WordsFile> words_file(const std::string& path) const;
  std::int64_t change(const std::vector<Entry>& entries, std::shared_ptr<const WordsFile> file);
  std::vector<float> rows_of(const std::vector<Entry>& entries, const WordsFile* file, int threads);
  std::shared_ptr<const SlotTable> next_table(const std::vector<Entry>& entries,
                                              const WordsFile* file, const std::vector<float>& rows,
                                              const SlotTable* previous) const;
  std::shared_ptr<const SlotTable> table() const;
  Picture picture_of(const dedos_frame& frame);
  void infer(const SlotTable& table);
  template <typename Id>
  void label(const SlotTable& table, std::vector<Id>& ids, Result& result) const;

  Bundle bundle_;
  const OnnxRuntime& runtime_;
  int threads_, text_threads_;
  TextEncoder encoder_;
  SlotRules rules_;
  CurvesFile curves_;
  std::unique_ptr<Session> session_;
  Resizer resizer_;
  std::vector<std::uint8_t> image_;    // at the network's size, BGR
  std::vector<std::uint8_t> colours_;  // of a frame in NV12
  std::vector<float> scores_;
  std::vector<std::uint16_t> half_scores_;
  std::mutex busy_;              // of a frame
  mutable std::mutex changing_;  // of the five below
  std::shared_ptr<const SlotTable> table_;
  std::shared_ptr<const WordsFile> words_file_;  // the last one, whose rows later lists have, too
  std::uint64_t asked_ = 0, done_ = 0;
};

}  // namespace dedos::lib
