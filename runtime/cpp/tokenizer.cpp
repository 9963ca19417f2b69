#include "tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "errors.h"
#include "json.h"
#include "names.h"

namespace dedos::lib {

namespace {

using Kind = Json::Kind;
using Vocabulary = std::unordered_map<std::string, std::int32_t>;

constexpr const char* kStart = "<start_of_text>";
constexpr const char* kEnd = "<end_of_text>";
// With the long s and the combining iota, which are no ASCII: the pattern is the same for all.
constexpr const char* kSplit =
    "<[s\xc5\xbf]tart_of_text>|<end_of_text>|'[s\xc5\xbf]|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|"
    "[^\\s\\p{L}\\p{N}\\x{0345}]+";

bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

Error damaged(const std::string& why) {
  return bad_bundle(std::string(kTokenizer) + " is damaged (" + why + "); export again");
}

const Json& part(const Json& of, const std::string& name) {
  static const Json kNull;
  const Json* found = of.find(name);
  return found != nullptr ? *found : kNull;
}

bool is_false(const Json& value) {
  return value.is(Kind::kNull) || (value.is(Kind::kBool) && !value.truth);
}

// Anything but CLIP's own steps could make other tokens, or much of a short word.
void check_steps(const Json& json) {
  const Json& splitting = part(json, "pre_tokenizer");
  const Json& steps = part(splitting, "pretokenizers");
  const bool sequence = part(splitting, "type").text == "Sequence" && steps.items.size() == 2;
  if (!part(json, "normalizer").is(Kind::kNull))
    throw damaged("it has a normalizer, CLIP's has none");
  if (!part(json, "added_tokens").items.empty())
    throw damaged("it has added tokens, CLIP's has none");
  if (!sequence) throw damaged("its pre_tokenizer is none that CLIP's has");
  const Json &split = steps.items[0], &bytes = steps.items[1];
  if (part(split, "type").text != "Split" || part(part(split, "pattern"), "Regex").text != kSplit ||
      part(split, "behavior").text != "Removed" || !part(split, "invert").truth) {
    throw damaged("its pattern is none that CLIP's has");
  }
  if (part(bytes, "type").text != "ByteLevel" || !is_false(part(bytes, "add_prefix_space")) ||
      part(bytes, "use_regex").truth || part(bytes, "use_regex").is(Kind::kNull)) {
    throw damaged("its pre_tokenizer is none that CLIP's has");
  }
  const Json& model = part(json, "model");
  const Json& kind = part(model, "type");
  if (!(kind.is(Kind::kNull) || kind.text == "BPE") || !part(model, "dropout").is(Kind::kNull) ||
      !part(model, "unk_token").is(Kind::kNull) ||
      !part(model, "continuing_subword_prefix").text.empty() ||
      !is_false(part(model, "byte_fallback")) || !is_false(part(model, "ignore_merges")) ||
      part(model, "end_of_word_suffix").text.size() > 16) {
    throw damaged("its model is none that CLIP's has");
  }
}

Vocabulary vocabulary_of(const Json& model) {
  const Json& listed = part(model, "vocab");
  Vocabulary vocabulary;
  vocabulary.reserve(listed.keys.size());
  for (std::size_t i = 0; i < listed.keys.size(); ++i) {
    const Json& id = listed.items[i];
    if (!id.whole || id.number < 0 || id.number > 0x7fffffff)
      throw damaged("a token has no number");
    vocabulary.emplace(listed.keys[i], static_cast<std::int32_t>(id.number));
  }
  return vocabulary;
}

std::pair<std::string, std::string> halves(const Json& merge) {
  if (merge.items.size() == 2) return {merge.items[0].text, merge.items[1].text};
  const std::size_t space = merge.text.find(' ');
  if (space == std::string::npos) throw damaged("a merge has not two parts");
  return {merge.text.substr(0, space), merge.text.substr(space + 1)};
}

std::int32_t token_of(const Vocabulary& vocabulary, const std::string& text) {
  const auto found = vocabulary.find(text);
  return found == vocabulary.end() ? -1 : found->second;
}

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

// Whether a token that marks start or end begins at `at`: it is a part of what precedes it after
// punctuation, as in open_clip.
bool is_special(const std::string& text, std::size_t at) {
  const bool marks = text.compare(at, std::string(kStart).size(), kStart) == 0 ||
                     text.compare(at, std::string(kEnd).size(), kEnd) == 0;
  return marks &&
         (at == 0 || text[at - 1] == ' ' || is_lower(text[at - 1]) || is_digit(text[at - 1]));
}

// The length of the piece at `at`, where there is no space.
std::size_t piece_length(const std::string& text, std::size_t at) {
  for (const std::string ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.compare(at, ending.size(), ending) == 0) return ending.size();
  }
  if (is_digit(text[at])) return 1;
  const bool word = is_lower(text[at]);
  std::size_t end = at + 1;
  while (end < text.size() && text[end] != ' ' && is_lower(text[end]) == word &&
         !is_digit(text[end])) {
    ++end;
  }
  return end - at;
}

}  // namespace

bool is_plain(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] < 0x20 || text[i] > 0x7e) return false;
    const char after = i + 1 < text.size() ? text[i + 1] : ' ';
    if (text[i] == '&' && after != ' ' && after != '&' && after != '<' && after != ';')
      return false;
  }
  return true;
}

Tokenizer::Tokenizer(const std::string& json, std::int32_t context_length)
    : context_length_(context_length) {
  const Json parsed = Json::parse(json, kTokenizer);
  check_steps(parsed);
  const Json& model = part(parsed, "model");
  const Vocabulary vocabulary = vocabulary_of(model);
  start_ = token_of(vocabulary, kStart);
  end_ = token_of(vocabulary, kEnd);
  if (start_ < 0 || end_ < 0) {
    throw bad_bundle(std::string(kTokenizer) + " has no " + kStart + " and " + kEnd +
                     "; it was not made for a CLIP text tower");
  }
  const std::string& suffix = part(model, "end_of_word_suffix").text;
  for (int letter = 0; letter < 128; ++letter) {
    letters_[letter] = token_of(vocabulary, std::string(1, static_cast<char>(letter)));
    last_letters_[letter] = token_of(vocabulary, static_cast<char>(letter) + suffix);
  }
  const std::vector<Json>& merges = part(model, "merges").items;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = halves(merges[rank]);
    const std::int32_t first = token_of(vocabulary, left), second = token_of(vocabulary, right);
    const std::int32_t merged = token_of(vocabulary, left + right);
    if (first < 0 || second < 0 || merged < 0) throw damaged("a merge is of no tokens");
    merges_.push_back({pair_of(first, second), static_cast<std::int32_t>(rank), merged});
  }
  merges_.shrink_to_fit();
  // Of a pair that is listed twice the last one counts, and is found first.
  std::sort(merges_.begin(), merges_.end(), [](const Merge& a, const Merge& b) {
    return a.pair != b.pair ? a.pair < b.pair : a.rank > b.rank;
  });
}

std::vector<std::int64_t> Tokenizer::encode(const std::string& given) const {
  std::string text;
  for (const char c : given) {
    if (c != ' ' || (!text.empty() && text.back() != ' ')) {
      text += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  if (!text.empty() && text.back() == ' ') text.pop_back();
  std::vector<std::int64_t> tokens{start_};
  for (std::size_t at = 0; at < text.size();) {
    if (is_special(text, at)) {
      throw bad_input(shown(given) +
                      " holds a token that marks the start or end of a prompt; use " +
                      "another name");
    }
    if (text[at] == ' ') {
      ++at;
      continue;
    }
    const std::size_t length = piece_length(text, at);
    add_piece(text.substr(at, length), tokens);
    at += length;
  }
  tokens.push_back(end_);
  if (tokens.size() > static_cast<std::size_t>(context_length_)) {
    throw bad_input(shown(given) + " has " + std::to_string(tokens.size()) +
                    " tokens, the text tower takes " + std::to_string(context_length_) +
                    " with start and end; use a shorter name");
  }
  return tokens;
}

const Tokenizer::Merge* Tokenizer::merge_of(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  const auto found =
      std::lower_bound(merges_.begin(), merges_.end(), pair,
                       [](const Merge& merge, std::uint64_t key) { return merge.pair < key; });
  return found != merges_.end() && found->pair == pair ? &*found : nullptr;
}

void Tokenizer::add_piece(const std::string& piece, std::vector<std::int64_t>& tokens) const {
  std::vector<std::int32_t> parts;
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto letter = static_cast<unsigned char>(piece[i]);
    const std::int32_t token = i + 1 < piece.size() ? letters_[letter] : last_letters_[letter];
    if (token >= 0) parts.push_back(token);  // as the library does without a token for the unknown
  }
  for (;;) {
    const Merge* best = nullptr;
    std::size_t where = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const Merge* merge = merge_of(parts[i], parts[i + 1]);
      if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
        best = merge;
        where = i;
      }
    }
    if (best == nullptr) break;
    parts[where] = best->merged;
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
  tokens.insert(tokens.end(), parts.begin(), parts.end());
}

}  // namespace dedos::lib
