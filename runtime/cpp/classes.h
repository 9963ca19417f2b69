// The class list of a user, as dedos_deploy/vocabulary.py reads it.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace dedos::lib {

struct Entry {
  std::vector<std::string> words;  // the name, then its synonyms; UTF-8
  std::optional<double> threshold;
};

// Entries between commas, `name|synonym@threshold#colour`; colours are checked and forgotten, as
// nothing here paints. Throws Error (bad input).
std::vector<Entry> parse_classes(const std::string& text);

// The same of entries one by one, as the words file `source` lists them.
std::vector<Entry> parse_entries(const std::vector<std::string>& spelled,
                                 const std::string& source);

// `word` as the text tower sees it: one space between parts, lower case; letters that are not ASCII
// stay as they are. Words with the same canonical form have the same embedding.
std::string canonical(const std::string& word);

}  // namespace dedos::lib
