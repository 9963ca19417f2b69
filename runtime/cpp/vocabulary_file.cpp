#include "vocabulary_file.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "errors.h"
#include "json.h"
#include "sha256.h"

namespace dedos::lib {

namespace {

constexpr int kVersion = 1;
constexpr double kNormTolerance = 1e-3;
using Kind = Json::Kind;

Error damaged(const std::string& name, const std::string& why) {
  return bad_bundle(name + " is damaged (" + why + "); make it again");
}

std::uint64_t length_of_header(const Bytes& bytes, const std::string& name) {
  std::uint64_t length = 0;
  if (bytes.size() < 8) throw damaged(name, "it ends too early");
  for (int i = 7; i >= 0; --i) length = length << 8 | bytes[static_cast<std::size_t>(i)];
  if (length > bytes.size() - 8) throw damaged(name, "it ends too early");
  return length;
}

std::map<std::string, std::string> metadata_of(const Json& header, const std::string& name) {
  std::map<std::string, std::string> found;
  const Json* metadata = header.find("__metadata__");
  for (std::size_t i = 0; metadata != nullptr && i < metadata->keys.size(); ++i) {
    if (!metadata->items[i].is(Kind::kText)) throw damaged(name, "its metadata are no text");
    found[metadata->keys[i]] = metadata->items[i].text;
  }
  if (found["format"] != "dedos-vocabulary") {
    throw bad_bundle(name + " has no format 'dedos-vocabulary'; it is not a vocabulary file");
  }
  const std::string& version = found["version"];
  if (version.empty() || version.size() > 9 ||
      version.find_first_not_of("0123456789") != std::string::npos) {
    throw bad_bundle(name + " has the version " + shown(version) + ", which is not a number");
  }
  if (std::stol(version) > kVersion) {
    throw Error(DEDOS_UNSUPPORTED_VERSION, name + " has version " + version +
                                               ", this libdedos reads up to " +
                                               std::to_string(kVersion) + "; install a newer one");
  }
  return found;
}

std::vector<std::string> words_of(const std::string& listed, const std::string& name) {
  const Json json = Json::parse(listed, name + ": its list of words");
  std::vector<std::string> words;
  for (const Json& item : json.items) {
    if (!json.is(Kind::kList) || !item.is(Kind::kText))
      throw damaged(name, "its words are no list of texts");
    words.push_back(item.text);
  }
  const std::unordered_set<std::string> unique(words.begin(), words.end());
  if (unique.size() != words.size()) throw damaged(name, "a word occurs twice");
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
    throw damaged(name, "its embeddings are not float32 [N, D]");
  }
  const auto is = [](const Json& value, double number) {
    return value.is(Kind::kNumber) && value.whole && value.number == number;
  };
  const double width = shape->items[1].number;
  if (words == 0 || !is(shape->items[0], static_cast<double>(words)) ||
      !is(shape->items[1], width) || width < 1 ||
      width * static_cast<double>(words) * 4 != static_cast<double>(bytes) ||
      !is(offsets->items[0], 0) || !is(offsets->items[1], static_cast<double>(bytes))) {
    throw damaged(name, std::to_string(words) + " words do not fit its embeddings");
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
      throw damaged(name, "the embedding of " + shown(file.words[i]) + " is not of length 1");
    }
  }
}

}  // namespace

VocabularyFile VocabularyFile::parse(const Bytes& bytes, const std::string& name) {
  const std::uint64_t length = length_of_header(bytes, name);
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  const Json header = Json::parse(std::string(text, length), name);
  VocabularyFile file;
  file.metadata = metadata_of(header, name);
  const std::string& listed = file.metadata["words"];
  file.words = words_of(listed, name);
  const std::size_t rows = bytes.size() - 8 - length;
  file.width = width_of(header, file.words.size(), rows, name);
  file.rows.resize(rows / sizeof(float));
  std::memcpy(file.rows.data(), text + length, rows);
  check_lengths(file, name);
  Sha256 hash;
  hash.add(listed.data(), listed.size());
  hash.add(text + length, rows);
  if (file.metadata["sha256"] != hash.hex() && kHashesCount) {
    throw damaged(name, "its content does not match its sha256");
  }
  return file;
}

}  // namespace dedos::lib
