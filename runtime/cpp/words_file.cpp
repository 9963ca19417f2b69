#include "words_file.h"

#include <algorithm>
#include <utility>

#include "errors.h"
#include "json.h"
#include "vocabulary_file.h"

namespace dedos::lib {

namespace {

constexpr std::uint64_t kMostBytes = 4u << 20;  // of Python's class files
constexpr std::size_t kShownOfHash = 12;
using Kind = Json::Kind;

// safetensors begin with a length, whose eight bytes are never all letters.
void check_kind(const Bytes& bytes, const std::string& name) {
  const auto end =
      bytes.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(bytes.size(), 8));
  if (std::find(bytes.begin(), end, 0) != end) return;
  throw bad_input(name +
                  " holds no embeddings; give a file of dedos-train tune-words, or words as " +
                  "a class list");
}

VocabularyFile vocabulary_of(const Bytes& bytes, const std::string& name) {
  try {
    return VocabularyFile::parse(bytes, "vocabulary");
  } catch (const Error& error) {
    throw bad_input(name + " cannot be used: " + error.what());
  }
}

// One of the metadata, which is of a kind, with something in it where it is a list.
Json parsed(const std::string& text, Kind kind, const std::string& name) {
  Json value;
  try {
    value = Json::parse(text, name);
  } catch (const Error&) {
    value.kind = Kind::kNull;  // refused below, in words that name no key of the file
  }
  const bool empty = kind == Kind::kList && value.items.empty();
  if (value.is(kind) && !empty) return value;
  throw bad_input(name + " has no readable list of entries; tune the words again");
}

std::vector<std::string> texts_of(const Json& list, const std::string& name) {
  std::vector<std::string> texts;
  for (const Json& item : list.items) {
    if (!item.is(Kind::kText)) {
      throw bad_input(name + " has no readable list of entries; tune the words again");
    }
    texts.push_back(item.text);
  }
  return texts;
}

}  // namespace

WordsFile WordsFile::read(const std::string& path, const Manifest& manifest) {
  const std::string name = "words file " + shown(path, 300);
  WordsFile file = parse(content_of(path, kMostBytes, name), name);
  file.check_model(manifest);
  return file;
}

WordsFile WordsFile::parse(const Bytes& bytes, const std::string& name) {
  check_kind(bytes, name);
  VocabularyFile found = vocabulary_of(bytes, name);
  if (found.metadata.count("model_sha256") == 0) {
    throw bad_input(name + " has words without the model that they were tuned on; give a file of " +
                    "dedos-train tune-words");
  }
  parsed(found.metadata["tuning"], Kind::kObject, name);
  const Json entries = parsed(found.metadata["entries"], Kind::kList, name);
  WordsFile file;
  file.name_ = name;
  file.model_sha256_ = found.metadata["model_sha256"];
  file.width_ = found.width;
  file.entries_ = parse_entries(texts_of(entries, name), name);
  for (std::size_t i = 0; i < found.words.size(); ++i) {
    const auto row = found.rows.begin() + static_cast<std::ptrdiff_t>(i * found.width);
    file.rows_[canonical(found.words[i])] =
        Row(row, row + static_cast<std::ptrdiff_t>(found.width));
  }
  for (const Entry& entry : file.entries_) {
    for (const std::string& word : entry.words) {
      if (file.find(word) != nullptr) continue;
      throw bad_input(name + " has no row for " + shown(word) + "; tune the words again");
    }
  }
  return file;
}

const Row* WordsFile::find(const std::string& word) const {
  const auto found = rows_.find(canonical(word));
  return found == rows_.end() ? nullptr : &found->second;
}

void WordsFile::check_model(const Manifest& manifest) const {
  const std::string& its = manifest.checkpoint_sha256;
  // What is not known is no model, also where a file says the same.
  if (!its.empty() && model_sha256_ == its &&
      width_ == static_cast<std::size_t>(manifest.text_width)) {
    return;
  }
  throw bad_input(
      name_ + " was tuned on another model (checkpoint " +
      shown(model_sha256_.substr(0, kShownOfHash)) + ", not " +
      (its.empty() ? "an unknown one" : shown(its.substr(0, kShownOfHash))) +
      "); tune the words on this one with dedos-train tune-words, or name them without " +
      "the file");
}

}  // namespace dedos::lib
