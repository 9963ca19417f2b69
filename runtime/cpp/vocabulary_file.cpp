#include "vocabulary_file.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "errors.h"
#include "json.h"
#include "safetensors.h"
#include "sha256.h"

namespace dedos::lib {

namespace {

constexpr SafetensorsKind kVocabulary = {"dedos-vocabulary", 1, "make it again",
                                         "it is not a vocabulary file"};
constexpr double kNormTolerance = 1e-3;
using Kind = Json::Kind;

std::vector<std::string> words_of(const std::string& listed, const std::string& name) {
  const Json json = Json::parse(listed, name + ": its list of words");
  std::vector<std::string> words;
  for (const Json& item : json.items) {
    if (!json.is(Kind::kList) || !item.is(Kind::kText))
      throw damaged(kVocabulary, name, "its words are no list of texts");
    words.push_back(item.text);
  }
  const std::unordered_set<std::string> unique(words.begin(), words.end());
  if (unique.size() != words.size()) throw damaged(kVocabulary, name, "a word occurs twice");
  return words;
}

// The only tensor: float32 [N, D], from the header's end to the end of the file.
std::size_t width_of(const Json& header, std::size_t words, std::size_t bytes,
                     const std::string& name) {
  const Json* tensor = header.find("embeddings");
  const std::size_t metadata = header.find("__metadata__") != nullptr ? 1 : 0;
  if (tensor == nullptr || header.keys.size() != 1 + metadata) {
    throw bad_bundle(name + " holds other tensors than 'embeddings'; it is not a vocabulary file");
  }
  const Json* dtype = tensor->find("dtype");
  const Json* shape = tensor->find("shape");
  const Json* offsets = tensor->find("data_offsets");
  if (dtype == nullptr || dtype->text != "F32" || shape == nullptr || shape->items.size() != 2 ||
      offsets == nullptr || offsets->items.size() != 2) {
    throw damaged(kVocabulary, name, "its embeddings are not float32 [N, D]");
  }
  const auto is = [](const Json& value, double number) {
    return value.is(Kind::kNumber) && value.whole && value.number == number;
  };
  const double width = shape->items[1].number;
  if (words == 0 || !is(shape->items[0], static_cast<double>(words)) ||
      !is(shape->items[1], width) || width < 1 ||
      width * static_cast<double>(words) * 4 != static_cast<double>(bytes) ||
      !is(offsets->items[0], 0) || !is(offsets->items[1], static_cast<double>(bytes))) {
    throw damaged(kVocabulary, name, std::to_string(words) + " words do not fit its embeddings");
  }
  return static_cast<std::size_t>(width);
}

void check_lengths(const VocabularyFile& file, const std::string& name) {
  for (std::size_t i = 0; i < file.words.size(); ++i) {
    double sum = 0.0;
    for (std::size_t d = 0; d < file.width; ++d) {
      const double value = file.rows[i * file.width + d];
      sum += value * value;
    }
    // Written so that NaN counts as wrong.
    if (!(std::fabs(std::sqrt(sum) - 1.0) <= kNormTolerance)) {
      throw damaged(kVocabulary, name,
                    "the embedding of " + shown(file.words[i]) + " is not of length 1");
    }
  }
}

}  // namespace

VocabularyFile VocabularyFile::parse(const Bytes& bytes, const std::string& name) {
  const SafetensorsHeader header = SafetensorsHeader::parse(bytes, kVocabulary, name);
  VocabularyFile file;
  file.metadata = header.metadata;
  const std::string& listed = file.metadata["words"];
  file.words = words_of(listed, name);
  const std::uint8_t* tensor = bytes.data() + header.end;
  const std::size_t rows = bytes.size() - header.end;
  file.width = width_of(header.json, file.words.size(), rows, name);
  file.rows.resize(rows / sizeof(float));
  std::memcpy(file.rows.data(), tensor, rows);
  check_lengths(file, name);
  Sha256 hash;
  hash.add(listed.data(), listed.size());
  hash.add(tensor, rows);
  if (file.metadata["sha256"] != hash.hex() && kHashesCount) {
    throw damaged(kVocabulary, name, "its content does not match its sha256");
  }
  return file;
}

}  // namespace dedos::lib
