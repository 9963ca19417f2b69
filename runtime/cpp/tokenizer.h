// CLIP's byte-pair tokenizer for prompts in ASCII, token for token as
// dedos_deploy/text/tokenizer.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dedos::lib {

// Whether the tokenizer takes a text: visible ASCII and spaces, without what an HTML entity could
// begin, which Python would replace.
bool is_plain(const std::string& text);

class Tokenizer {
 public:
  // json: of tokenizer.json. Throws Error (bad bundle) for what is no tokenizer of CLIP's kind.
  Tokenizer(const std::string& json, std::int32_t context_length);

  // The tokens of a plain text, from start to end, without padding. Throws Error (bad input) for a
  // text that is too long, or holds a token that marks start or end.
  std::vector<std::int64_t> encode(const std::string& text) const;

 private:
  struct Merge {
    std::uint64_t pair;
    std::int32_t rank;
    std::int32_t merged;
  };

  void add_piece(const std::string& piece, std::vector<std::int64_t>& tokens) const;
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;

  std::int32_t context_length_;
  std::int32_t start_ = -1, end_ = -1;
  std::int32_t letters_[128];       // token of a letter, -1 for none
  std::int32_t last_letters_[128];  // of one that ends a word
  std::vector<Merge> merges_;       // sorted by pair
};

}  // namespace dedos::lib
