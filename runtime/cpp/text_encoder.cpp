#include "text_encoder.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_set>

#include "classes.h"
#include "cores.h"
#include "errors.h"
#include "names.h"

namespace dedos::lib {

namespace {

constexpr std::size_t kBatch = 16;  // prompts per run of the text tower
constexpr std::size_t kRowsKept = 4096;

// NumPy's sum of a row: in eight parts, by halves above 128. So a row has the very bits of
// Python's.
double sum_of(const double* values, std::size_t count) {
  if (count > 128) {
    std::size_t half = count / 2;
    half -= half % 8;
    return sum_of(values, half) + sum_of(values + half, count - half);
  }
  if (count < 8) {
    double sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
  }
  double part[8];
  std::copy(values, values + 8, part);
  std::size_t i = 8;
  for (; i < count - count % 8; i += 8) {
    for (int j = 0; j < 8; ++j) part[j] += values[i + j];
  }
  double sum =
      ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  for (; i < count; ++i) sum += values[i];
  return sum;
}

void normalise(std::vector<double>& row, const std::string& subject) {
  std::vector<double> squares(row.size());
  std::transform(row.begin(), row.end(), squares.begin(),
                 [](double value) { return value * value; });
  const double length = std::sqrt(sum_of(squares.data(), squares.size()));
  if (!(std::isfinite(length) && length > 0.0)) {
    throw engine_error("the text tower gave no usable embedding for " + subject +
                       "; export the bundle again");
  }
  for (double& value : row) value /= length;
}

// The text tower while it runs.
class Tower {
 public:
  Tower(const Bundle& bundle, const OnnxRuntime& runtime, int threads)
      : session_(runtime, bundle.read(kTextEncoder), kTextEncoder, {threads, false}),
        context_length_(static_cast<std::size_t>(bundle.manifest().context_length)),
        width_(static_cast<std::size_t>(bundle.manifest().text_width)) {
    const std::vector<TensorType> inputs = session_.inputs();
    if (inputs.size() != 1 || inputs[0].name != "tokens") {
      throw bad_bundle(std::string(kTextEncoder) + " has not the one input 'tokens'; export the " +
                       "bundle again");
    }
    // A tower of an earlier export has one length of rows.
    takes_shorter_ = inputs[0].shape.size() == 2 && inputs[0].shape[1] < 0;
  }

  // The embeddings of prompts, at most kBatch.
  std::vector<float> run(const std::vector<std::vector<std::int64_t>>& prompts) const {
    std::size_t length = context_length_;
    if (takes_shorter_) {
      length = 0;
      for (const auto& prompt : prompts) length = std::max(length, prompt.size());
    }
    std::vector<std::int64_t> tokens(prompts.size() * length, 0);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      std::copy(prompts[i].begin(), prompts[i].end(),
                tokens.begin() + static_cast<std::ptrdiff_t>(i * length));
    }
    std::vector<float> rows(prompts.size() * width_);
    const auto count = static_cast<std::int64_t>(prompts.size());
    session_.run({{"tokens",
                   Element::kInt64,
                   {count, static_cast<std::int64_t>(length)},
                   tokens.data(),
                   tokens.size() * sizeof(std::int64_t)}},
                 {{"embedding",
                   Element::kFloat,
                   {count, static_cast<std::int64_t>(width_)},
                   rows.data(),
                   rows.size() * sizeof(float)}},
                 "the text tower failed");
    return rows;
  }

 private:
  Session session_;
  std::size_t context_length_;
  std::size_t width_;
  bool takes_shorter_;
};

// The mean over a word's prompts, each of length 1, of length 1 again.
Row mean_of(const std::vector<std::vector<double>>& prompts, const std::string& word) {
  std::vector<double> mean(prompts[0].size(), 0.0);
  for (const std::vector<double>& prompt : prompts) {
    std::transform(mean.begin(), mean.end(), prompt.begin(), mean.begin(), std::plus<double>());
  }
  for (double& value : mean) value /= static_cast<double>(prompts.size());
  normalise(mean, "the word " + shown(word));
  return {mean.begin(), mean.end()};
}

std::string prompt_of(const std::string& sentence, const std::string& word) {
  std::string prompt = sentence;
  return prompt.replace(prompt.find("{}"), 2, word);
}

}  // namespace

TextEncoder::TextEncoder(const Bundle& bundle, const OnnxRuntime& runtime)
    : bundle_(bundle),
      runtime_(runtime),
      width_(static_cast<std::size_t>(bundle.manifest().text_width)) {
  know_shipped();
}

void TextEncoder::know_shipped() {
  const Manifest& manifest = bundle_.manifest();
  std::vector<std::string> names = manifest.vocabularies;
  std::stable_partition(names.begin(), names.end(), [&](const std::string& name) {
    return name == manifest.base_vocabulary;  // its rows win
  });
  std::unordered_set<std::string> taken;
  for (const std::string& name : names) {
    const std::string subject = bundle_.label() + ": file " + shown(vocabulary_file(name));
    auto file = std::make_unique<VocabularyFile>(
        VocabularyFile::parse(bundle_.read(vocabulary_file(name)), subject));
    if (file->width != width_) {
      throw bad_bundle(subject + " has embeddings of " + std::to_string(file->width) +
                       " values, but field 'spec.text_width' is " + std::to_string(width_));
    }
    for (std::size_t i = 0; i < file->words.size(); ++i) {
      if (!taken.insert(file->words[i]).second) continue;
      const auto row = file->rows.begin() + static_cast<std::ptrdiff_t>(i * width_);
      known_[canonical(file->words[i])] = Row(row, row + static_cast<std::ptrdiff_t>(width_));
    }
    if (name == manifest.base_vocabulary) base_ = std::move(file);
  }
}

void TextEncoder::know(const std::string& path) {
  const std::string name = "vocabulary file " + shown(path, 300);
  VocabularyFile file = VocabularyFile::parse(content_of(path, kMaxRead, name), name);
  const Manifest& manifest = bundle_.manifest();
  std::string templates;
  for (const std::string& sentence : manifest.templates) {
    templates += (templates.empty() ? "" : "\n") + sentence;
  }
  const std::pair<std::string, std::string> identity[] = {
      {"text_tower_sha256", manifest.files.at(kTextEncoder)},
      {"tokenizer_sha256", manifest.files.at(kTokenizer)},
      {"context_length", std::to_string(manifest.context_length)},
      {"templates", templates},
      {"text_width", std::to_string(width_)}};
  for (const auto& [field, expected] : identity) {
    if (file.metadata[field] == expected) continue;
    throw bad_input(name + " has " + field + " " + shown(file.metadata[field]) + ", this bundle " +
                    shown(expected) + "; make the file again with this bundle");
  }
  if (file.width != width_) throw bad_input(name + " has rows of another width; make it again");
  const std::lock_guard<std::mutex> lock(reading_);
  for (std::size_t i = 0; i < file.words.size(); ++i) {
    const auto row = file.rows.begin() + static_cast<std::ptrdiff_t>(i * width_);
    known_[canonical(file.words[i])] = Row(row, row + static_cast<std::ptrdiff_t>(width_));
  }
}

bool TextEncoder::collect(const std::vector<std::string>& keys, std::vector<float>& rows,
                          std::vector<std::string>& missing) {
  const std::lock_guard<std::mutex> lock(reading_);
  std::set<std::string> asked;
  rows.clear();
  missing.clear();
  for (const std::string& key : keys) {
    const auto known = known_.find(key);
    const auto other = known == known_.end() ? others_.find(key) : others_.end();
    if (known == known_.end() && other == others_.end()) {
      if (asked.insert(key).second) missing.push_back(key);
      continue;
    }
    if (other != others_.end()) other->second.used = ++uses_;
    const Row& row = known != known_.end() ? known->second : other->second.row;
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return missing.empty();
}

void TextEncoder::keep(const std::string& word, Row row) {
  const std::lock_guard<std::mutex> lock(reading_);
  others_[word] = {std::move(row), ++uses_};
  if (others_.size() <= kRowsKept) return;
  others_.erase(std::min_element(others_.begin(), others_.end(), [](const auto& a, const auto& b) {
    return a.second.used < b.second.used;
  }));
}

std::vector<float> TextEncoder::encode(const std::vector<std::string>& words, int threads) {
  std::vector<std::string> keys(words.size());
  std::transform(words.begin(), words.end(), keys.begin(), canonical);
  std::vector<float> rows;
  std::vector<std::string> missing;
  if (collect(keys, rows, missing)) return rows;
  if (keys.size() > kRowsKept) {
    throw bad_input(std::to_string(missing.size()) + " new words in one class list, with up to " +
                    std::to_string(kRowsKept) + " words in all; make a vocabulary file of them");
  }
  const std::lock_guard<std::mutex> lock(encoding_);
  // Another call may have encoded some of them meanwhile, or, with very many words, displaced some.
  while (!collect(keys, rows, missing)) encode_new(missing, threads);
  return rows;
}

std::vector<std::int64_t> TextEncoder::tokens_of(const std::string& word,
                                                 const std::string& sentence) const {
  const std::string prompt = prompt_of(sentence, word);
  if (!is_plain(prompt)) {
    throw bad_input(
        "the word " + shown(word) + " is in no vocabulary of this bundle, and only words " +
        "in ASCII without HTML are encoded here; make a vocabulary file with the Python " +
        "package and name it in dedos_options.vocabulary_files");
  }
  return tokenizer_->encode(prompt);
}

void TextEncoder::encode_new(const std::vector<std::string>& words, int threads) {
  const Manifest& manifest = bundle_.manifest();
  if (tokenizer_ == nullptr) {
    const Bytes json = bundle_.read(kTokenizer);
    tokenizer_ =
        std::make_unique<Tokenizer>(std::string(json.begin(), json.end()), manifest.context_length);
  }
  // All of them before the tower is loaded: an error names the word, and comes at once.
  std::vector<std::vector<std::int64_t>> prompts;
  for (const std::string& word : words) {
    for (const std::string& sentence : manifest.templates) {
      prompts.push_back(tokens_of(word, sentence));
    }
  }
  const Tower tower(bundle_, runtime_, usable_threads(threads));
  const std::size_t each = manifest.templates.size();
  const std::size_t at_once = std::max<std::size_t>(1, kBatch / each);
  // As many words a run as in Python: what shares a run may differ in the last bit.
  for (std::size_t first = 0; first < words.size(); first += at_once) {
    const std::size_t end = std::min(words.size(), first + at_once) * each;
    std::vector<std::vector<double>> rows;
    for (std::size_t begin = first * each; begin < end; begin += kBatch) {
      const auto from = prompts.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto count = static_cast<std::ptrdiff_t>(std::min(kBatch, end - begin));
      const std::vector<float> run = tower.run({from, from + count});
      for (std::size_t at = 0; at < run.size(); at += width_) {
        const auto row = run.begin() + static_cast<std::ptrdiff_t>(at);
        rows.emplace_back(row, row + static_cast<std::ptrdiff_t>(width_));
        normalise(rows.back(), "a prompt");
      }
    }
    for (std::size_t i = 0; i < rows.size(); i += each) {
      const std::string& word = words[first + i / each];
      const auto from = rows.begin() + static_cast<std::ptrdiff_t>(i);
      keep(word, mean_of({from, from + static_cast<std::ptrdiff_t>(each)}, word));
    }
  }
}

}  // namespace dedos::lib
