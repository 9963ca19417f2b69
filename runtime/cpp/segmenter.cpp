#include "segmenter.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <stdexcept>

#include "cores.h"
#include "errors.h"
#include "label_map.h"
#include "label_pixel.h"
#include "names.h"
#include "nv12.h"
#include "trust_file.h"

namespace dedos::lib {

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

std::vector<std::string> words_of(const std::vector<Entry>& entries) {
  std::vector<std::string> words;
  for (const Entry& entry : entries)
    words.insert(words.end(), entry.words.begin(), entry.words.end());
  return words;
}

std::string size_text(const dedos_frame& frame) {
  return std::to_string(frame.height) + "x" + std::to_string(frame.width);
}

// So that no product of sides and pitch overflows.
constexpr std::int32_t kMostSide = 1 << 20;
constexpr std::int64_t kMostPixels = std::int64_t{1} << 30;
constexpr std::int64_t kMostPitch = std::int64_t{1} << 32;

void check_frame(const dedos_frame& frame) {
  if (frame.format < DEDOS_BGR || frame.format > DEDOS_NV12_BT709_FULL) {
    throw bad_input("the format " + std::to_string(static_cast<int>(frame.format)) +
                    " of a frame is unknown; it is one of dedos_format");
  }
  if (frame.pixels == nullptr || frame.height < 1 || frame.width < 1 || frame.height > kMostSide ||
      frame.width > kMostSide || std::int64_t{frame.height} * frame.width > kMostPixels) {
    throw bad_input("a frame must have pixels, 1 to 2^30 of them, not " + size_text(frame) +
                    (frame.pixels == nullptr ? " at NULL" : "") + "; check what the camera gave");
  }
  const bool nv12 = frame.format >= DEDOS_NV12_BT601;
  if (nv12 && (frame.height % 2 != 0 || frame.width % 2 != 0)) {
    throw bad_input("a frame in NV12 must have even sides, not " + size_text(frame) +
                    "; crop the padding of a decoder");
  }
  const std::int64_t row = std::int64_t{frame.width} * (nv12 ? 1 : kChannels);
  const std::int64_t chroma = nv12 ? frame.chroma_pitch : 0;
  const auto is_wrong = [&](std::int64_t pitch) {
    return pitch != 0 && (pitch < row || pitch > kMostPitch);
  };
  if (is_wrong(frame.pitch) || is_wrong(chroma)) {
    throw bad_input("the pitch of a frame is " + std::to_string(frame.pitch) + " and " +
                    std::to_string(chroma) + " bytes, but a row has " + std::to_string(row) +
                    "; give bytes from row to row, or 0 for rows without gaps");
  }
}

}  // namespace

Segmenter::Segmenter(const std::string& bundle, const char* classes, const dedos_options& options)
    : bundle_(Bundle::open(bundle, options.verify != 0)),
      runtime_(OnnxRuntime::load(options.onnxruntime == nullptr ? "" : options.onnxruntime)),
      threads_(usable_threads(options.threads)),
      text_threads_(options.text_threads),
      encoder_(bundle_, runtime_),
      rules_(manifest().thresholds, manifest().default_threshold, options.background,
             options.threshold, negatives(options.background)),
      curves_(CurvesFile::of(bundle_)),
      resizer_(manifest().height, manifest().width),
      image_(static_cast<std::size_t>(manifest().height) * manifest().width * kChannels) {
  check_tiles(options.ignore_tiles != 0);
  check_trust(bundle_);
  for (std::size_t i = 0; i < options.vocabulary_count; ++i) {
    encoder_.know(options.vocabulary_files[i]);
  }
  open_graph();
  if (classes == nullptr) words_file_ = words_file(options.words_file);
  const std::vector<Entry> entries =
      classes == nullptr ? words_file_->entries() : parse_classes(classes);
  // With all threads: no frame waits for the first words.
  table_ = next_table(entries, words_file_.get(), rows_of(entries, words_file_.get(), threads_),
                      nullptr);
}

const VocabularyFile* Segmenter::negatives(dedos_background background) const {
  if (background != DEDOS_BACKGROUND_NEGATIVES) return nullptr;
  if (encoder_.base() != nullptr) return encoder_.base();
  throw bad_bundle(bundle_.label() + " ships no base vocabulary to take negatives from; choose " +
                   "DEDOS_BACKGROUND_THRESHOLD or DEDOS_BACKGROUND_NONE");
}

// Other labels than those of the Python package are not given in silence.
void Segmenter::check_tiles(bool ignored) const {
  if (ignored || manifest().tiles == "off") return;
  throw bad_input(bundle_.label() + " asks for tiles " + shown(manifest().tiles) +
                  ", windows of large frames, which libdedos does not do; set ignore_tiles of " +
                  "dedos_options to label frames whole, or export it with --tiles off");
}

void Segmenter::open_graph() {
  if (manifest().batch != 1) {
    throw bad_bundle("this bundle's graph takes " + std::to_string(manifest().batch) +
                     " frames at a time, and 1 is needed; export it with batch 1");
  }
  const SessionOptions options{threads_, true};
  const std::unique_ptr<Bundle::Place> place = bundle_.place_of_graph(kModel);
  if (place != nullptr) {
    session_ = std::make_unique<Session>(runtime_, place->path(), kModel, options);
  } else {
    session_ = std::make_unique<Session>(runtime_, bundle_.read(kModel), kModel, options);
  }
  check_graph();
}

// The tensors must be those that the manifest promises.
void Segmenter::check_graph() const {
  const Manifest& wanted = manifest();
  const Element scores = wanted.half_scores ? Element::kHalf : Element::kFloat;
  std::vector<TensorType> promised = {
      {"image", static_cast<int>(Element::kUint8), {1, wanted.height, wanted.width, kChannels}},
      {"text", static_cast<int>(Element::kFloat), {-1, wanted.text_width}},
      {"valid", static_cast<int>(Element::kFloat), {-1}},
      {"scores",
       static_cast<int>(scores),
       {1, -1, wanted.height / kScoreStride, wanted.width / kScoreStride}}};
  if (wanted.pooled_width > 0) {
    promised.push_back({"pooled", static_cast<int>(Element::kFloat), {1, wanted.pooled_width}});
  }
  std::vector<TensorType> found = session_->inputs();
  const std::vector<TensorType> outputs = session_->outputs();
  found.insert(found.end(), outputs.begin(), outputs.end());
  for (const TensorType& tensor : promised) {
    const auto same = std::find_if(found.begin(), found.end(), [&](const TensorType& other) {
      if (other.name != tensor.name || other.element != tensor.element ||
          other.shape.size() != tensor.shape.size()) {
        return false;
      }
      return std::equal(
          tensor.shape.begin(), tensor.shape.end(), other.shape.begin(),
          [](std::int64_t want, std::int64_t have) { return have < 0 || have == want; });
    });
    if (same == found.end() || found.size() != promised.size()) {
      throw engine_error("tensor '" + tensor.name + "' of " + kModel +
                         " is missing or not what the bundle promises; export it again");
    }
  }
}

std::shared_ptr<const SlotTable> Segmenter::table() const {
  const std::lock_guard<std::mutex> lock(changing_);
  return table_;
}

std::shared_ptr<const WordsFile> Segmenter::words_file(const std::string& path) const {
  return std::make_shared<const WordsFile>(WordsFile::read(path, manifest()));
}

std::int64_t Segmenter::set_classes(const std::string& classes) {
  return change(parse_classes(classes), nullptr);
}

std::int64_t Segmenter::set_words_file(const std::string& path) {
  const std::shared_ptr<const WordsFile> file = words_file(path);
  return change(file->entries(), file);
}

// file: nullptr for the one that there was.
std::int64_t Segmenter::change(const std::vector<Entry>& entries,
                               std::shared_ptr<const WordsFile> file) {
  std::uint64_t turn;
  {
    const std::lock_guard<std::mutex> lock(changing_);
    turn = ++asked_;
    if (file == nullptr) file = words_file_;
  }
  const std::vector<float> rows = rows_of(entries, file.get(), text_threads_);
  const std::lock_guard<std::mutex> lock(changing_);
  if (turn > done_) {
    table_ = next_table(entries, file.get(), rows, table_.get());
    words_file_ = std::move(file);
    done_ = turn;
  }
  return table_->version;
}

// Entries with a row of the words file, nullptr for none, have the curve of all classes: theirs
// were learned with other scores.
std::shared_ptr<const SlotTable> Segmenter::next_table(const std::vector<Entry>& entries,
                                                       const WordsFile* file,
                                                       const std::vector<float>& rows,
                                                       const SlotTable* previous) const {
  const std::shared_ptr<SlotTable> table = rules_.table(entries, rows, previous);
  std::set<std::string> tuned;
  for (const Entry& entry : entries) {
    const bool any = file != nullptr && std::any_of(entry.words.begin(), entry.words.end(),
                                                    [&](const std::string& word) {
                                                      return file->find(word) != nullptr;
                                                    });
    if (any) tuned.insert(entry.words[0]);
  }
  table->curves = curves_.rows(table->names, tuned);
  return table;
}

// Those of the words file, nullptr for none, and of the text encoder for all other words.
std::vector<float> Segmenter::rows_of(const std::vector<Entry>& entries, const WordsFile* file,
                                      int threads) {
  const std::vector<std::string> words = words_of(entries);
  if (file == nullptr) return encoder_.encode(words, threads);
  std::vector<std::string> others;
  std::copy_if(words.begin(), words.end(), std::back_inserter(others),
               [&](const std::string& word) { return file->find(word) == nullptr; });
  const std::vector<float> encoded =
      others.empty() ? std::vector<float>() : encoder_.encode(others, threads);
  std::vector<float> rows;
  auto next = encoded.begin();
  for (const std::string& word : words) {
    const Row* row = file->find(word);
    if (row != nullptr) {
      rows.insert(rows.end(), row->begin(), row->end());
    } else {
      rows.insert(rows.end(), next, next + manifest().text_width);
      next += manifest().text_width;
    }
  }
  return rows;
}

Picture Segmenter::picture_of(const dedos_frame& frame) {
  const std::int64_t row =
      std::int64_t{frame.width} * (frame.format < DEDOS_NV12_BT601 ? kChannels : 1);
  const std::int64_t pitch = frame.pitch != 0 ? frame.pitch : row;
  if (frame.format < DEDOS_NV12_BT601) return {frame.pixels, frame.height, frame.width, pitch};
  const std::uint8_t* after = frame.pixels + frame.height * pitch;
  const Nv12Image image{frame.pixels,
                        frame.chroma != nullptr ? frame.chroma : after,
                        frame.height,
                        frame.width,
                        pitch,
                        frame.chroma_pitch != 0 ? frame.chroma_pitch : pitch,
                        yuv_matrix(frame.format - DEDOS_NV12_BT601)};
  colours_.resize(static_cast<std::size_t>(frame.height) * frame.width * kChannels);
  nv12_to_bgr(image, colours_.data());
  return {colours_.data(), frame.height, frame.width, row * kChannels};
}

void Segmenter::infer(const SlotTable& table) {
  const Manifest& spec = manifest();
  const auto slots = static_cast<std::int64_t>(table.slots());
  const std::int64_t height = spec.height / kScoreStride, width = spec.width / kScoreStride;
  const auto count = static_cast<std::size_t>(slots * height * width);
  scores_.resize(count);
  if (spec.half_scores) half_scores_.resize(count);
  // ONNX Runtime does not write to what it is given to read.
  const auto readable = [](const std::vector<float>& values) {
    return const_cast<float*>(values.data());
  };
  const std::vector<Tensor> inputs = {{"image",
                                       Element::kUint8,
                                       {1, spec.height, spec.width, kChannels},
                                       image_.data(),
                                       image_.size()},
                                      {"text",
                                       Element::kFloat,
                                       {slots, spec.text_width},
                                       readable(table.text),
                                       table.text.size() * sizeof(float)},
                                      {"valid",
                                       Element::kFloat,
                                       {slots},
                                       readable(table.valid),
                                       table.valid.size() * sizeof(float)}};
  void* values = spec.half_scores ? static_cast<void*>(half_scores_.data()) : scores_.data();
  const std::size_t bytes = count * (spec.half_scores ? sizeof(std::uint16_t) : sizeof(float));
  session_->run(inputs,
                {{"scores",
                  spec.half_scores ? Element::kHalf : Element::kFloat,
                  {1, slots, height, width},
                  values,
                  bytes}},
                "ONNX Runtime failed on a frame");
  if (spec.half_scores) {
    std::transform(half_scores_.begin(), half_scores_.end(), scores_.begin(),
                   [](std::uint16_t bits) { return as_float(Half{bits}); });
  }
}

template <typename Id>
void Segmenter::label(const SlotTable& table, std::vector<Id>& ids, Result& result) const {
  const auto pixels = static_cast<std::size_t>(result.height) * result.width;
  ids.resize(pixels);
  result.confidence.resize(pixels);
  result.cells.assign(table.names.size() + 1, 0);
  const Scores scores{scores_.data(), static_cast<std::int32_t>(table.slots()),
                      manifest().height / kScoreStride, manifest().width / kScoreStride};
  const dedos::SlotTable slots{table.thresholds.data(), table.slot_ids.data()};
  const LabelImage<Id> image{ids.data(), result.confidence.data(), result.height, result.width};
  try {
    label_map(scores, slots, image, result.cells.data(), result.cells.size(), threads_);
  } catch (const std::invalid_argument& error) {
    throw engine_error(std::string("the engine gave scores that are not usable (") + error.what() +
                       "); export the bundle again in a higher precision");
  }
  if (!table.curves.empty()) {
    read_curves(ids.data(), pixels, table.curves.data(),
                static_cast<std::int32_t>(table.curves.size() / kLevels), result.confidence.data());
  }
  result.counts.assign(result.cells.begin(), result.cells.end() - 1);
}

void Segmenter::segment(const dedos_frame& frame, Result& result) {
  check_frame(frame);
  const std::lock_guard<std::mutex> lock(busy_);
  const std::shared_ptr<const SlotTable> table = this->table();
  const Clock::time_point started = Clock::now();
  resizer_.resize(picture_of(frame), image_.data());
  if (frame.format == DEDOS_RGB) {
    // The small picture is turned, not the large one.
    for (std::size_t i = 0; i < image_.size(); i += kChannels) std::swap(image_[i], image_[i + 2]);
  }
  const Clock::time_point resized = Clock::now();
  infer(*table);
  const Clock::time_point inferred = Clock::now();
  result.height = frame.height;
  result.width = frame.width;
  table->wide() ? label(*table, result.wide, result) : label(*table, result.narrow, result);
  result.pre_ms = milliseconds(started, resized);
  result.engine_ms = milliseconds(resized, inferred);
  result.post_ms = milliseconds(inferred, Clock::now());
  result.table = table;
}

}  // namespace dedos::lib
