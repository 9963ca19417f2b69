#include "classes.h"

#include <algorithm>
#include <functional>
#include <locale>
#include <map>
#include <sstream>

#include "errors.h"
#include "utf8.h"

namespace dedos::lib {

namespace {

using Letters = std::u32string;

constexpr std::size_t kMaxClasses = 65534;
constexpr std::size_t kMostLetters = 512;
// Marks of a list, which after a backslash are letters of a word: while a list is read such letters
// are code points that are no characters and never will be.
constexpr char32_t kMasked = 0xfdd0;
const Letters kMarks = U",|@#\\";

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_control(char32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

bool is_hex(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

Letters letters_of(const std::string& text) {
  Letters letters;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t letter = next_letter(text, at);
    if (letter == kNoLetter) throw bad_input("the class list is not UTF-8 text; convert it");
    letters += letter;
  }
  return letters;
}

std::string utf8_of(const Letters& letters) {
  std::string text;
  for (const char32_t letter : letters) {
    const std::size_t mark = letter - kMasked;
    append_letter(text, mark < kMarks.size() ? kMarks[mark] : letter);
  }
  return text;
}

Letters masked(const Letters& text) {
  Letters out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t mark = i + 1 < text.size() ? kMarks.find(text[i + 1]) : Letters::npos;
    if (text[i] == '\\' && mark != Letters::npos) {
      out += kMasked + static_cast<char32_t>(mark);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::vector<Letters> split(const Letters& text, char32_t at) {
  std::vector<Letters> parts(1);
  for (const char32_t letter : text) {
    if (letter == at) {
      parts.emplace_back();
    } else {
      parts.back() += letter;
    }
  }
  return parts;
}

// One space between parts, none around them.
Letters collapsed(const Letters& text) {
  Letters out;
  bool gap = false;
  for (const char32_t letter : text) {
    if (is_space(letter)) {
      gap = !out.empty();
      continue;
    }
    if (gap) out += U' ';
    gap = false;
    out += letter;
  }
  return out;
}

// A mark of a path after a backslash is a letter of a word, and no such mark.
bool looks_like_a_file(const Letters& text) {
  const auto at = [&](std::size_t index) { return index < text.size() ? text[index] : U' '; };
  const auto slash = [&](std::size_t index) { return at(index) == '/' || at(index) == '\\'; };
  const auto lower = [](char32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; };
  const Letters suffix = U".txt";
  const bool ends = text.size() >= suffix.size() &&
                    std::equal(suffix.rbegin(), suffix.rend(), text.rbegin(),
                               [&](char32_t a, char32_t b) { return a == lower(b); });
  const bool dots = at(0) == '.' && (slash(1) || (at(1) == '.' && slash(2)));
  const bool drive = lower(at(0)) >= 'a' && lower(at(0)) <= 'z' && at(1) == ':' && slash(2);
  return ends || slash(0) || at(0) == '~' || dots || drive;
}

class EntryReader {
 public:
  // place: what messages call it.
  EntryReader(Letters text, const std::string& place)
      : text_(std::move(text)), subject_(place + " is " + shown(utf8_of(collapsed(text_)))) {}

  Entry read() {
    if (text_.find(U',') != Letters::npos) fail("has a comma; a comma of a word is '\\,'");
    drop_colour();
    const std::size_t at = text_.find(U'@');
    const Letters body = text_.substr(0, at);
    for (std::size_t i = 1; i + 1 < body.size(); ++i) {
      if (body[i] == '#' && !is_space(body[i - 1]) && !is_space(body[i + 1])) {
        fail(
            "has a # that begins no colour; one is # and six hexadecimal digits at the end, as in "
            "'road#808080', and a # of a word is '\\#'");
      }
    }
    Entry entry;
    for (const Letters& word : split(body, U'|')) entry.words.push_back(checked(collapsed(word)));
    if (at != Letters::npos) entry.threshold = threshold(utf8_of(collapsed(text_.substr(at + 1))));
    return entry;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw bad_input(subject_ + ", which " + why);
  }

  // Where a colour ends that begins at `at`, with the spaces after it; 0 where none does.
  std::size_t colour_end(std::size_t at) const {
    if (text_[at] != '#' || at + 7 > text_.size()) return 0;
    for (std::size_t i = at + 1; i < at + 7; ++i) {
      if (!is_hex(text_[i])) return 0;
    }
    std::size_t end = at + 7;
    while (end < text_.size() && is_space(text_[end])) ++end;
    return end == text_.size() || text_[end] == '@' || text_[end] == '#' ? end : 0;
  }

  void drop_colour() {
    std::size_t from = Letters::npos, to = 0;
    for (std::size_t at = 0; at < text_.size(); ++at) {
      const std::size_t end = colour_end(at);
      if (end == 0) continue;
      if (from != Letters::npos) fail("has two colours; an entry may have one");
      from = at;
      to = end;
      at = end - 1;
    }
    if (from != Letters::npos) text_.erase(from, to - from);
  }

  std::string checked(const Letters& word) const {
    if (word.empty()) fail("has an empty word; remove it or give it a name");
    if (word.size() > kMostLetters) {
      fail("has a word of " + std::to_string(word.size()) + " letters, at most " +
           std::to_string(kMostLetters) + " are possible; use a shorter name");
    }
    if (std::any_of(word.begin(), word.end(), is_control)) {
      fail("has characters that are not text; remove them");
    }
    return utf8_of(word);
  }

  double threshold(const std::string& text) const {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());  // the program's may have a decimal comma
    double value = -1.0;
    stream >> value;
    const bool whole = !stream.fail() && stream.peek() == std::istringstream::traits_type::eof();
    if (!whole || !(value >= 0.0 && value <= 1.0)) {
      fail("has the threshold " + shown(text) +
           "; an entry may end with @ and one number in [0, 1], "
           "as in 'road@0.4'");
    }
    return value;
  }

  Letters text_;
  std::string subject_;
};

// Where an entry stands, for messages.
using Places = std::function<std::string(std::size_t)>;

void check_unique(const std::vector<Entry>& entries, const Places& place) {
  std::map<std::string, std::size_t> first;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    for (const std::string& word : entries[i].words) {
      const auto [known, is_new] = first.emplace(canonical(word), i);
      if (is_new) continue;
      throw bad_input(shown(word) + " occurs twice, in " + place(known->second + 1) + " and in " +
                      place(i + 1) + "; remove one of them");
    }
  }
}

std::vector<Entry> entries_of(const std::vector<Letters>& items, const std::string& source,
                              const Places& place) {
  if (items.size() > kMaxClasses) {
    throw bad_input(source + " has " + std::to_string(items.size()) + " classes, at most " +
                    std::to_string(kMaxClasses) + " are possible; shorten it");
  }
  std::vector<Entry> entries;
  for (const Letters& item : items) {
    entries.push_back(EntryReader(item, place(entries.size() + 1)).read());
  }
  check_unique(entries, place);
  return entries;
}

}  // namespace

std::string canonical(const std::string& word) {
  std::string text = utf8_of(collapsed(letters_of(word)));
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return text;
}

std::vector<Entry> parse_classes(const std::string& text) {
  const Letters letters = masked(letters_of(text));
  if (std::all_of(letters.begin(), letters.end(), is_space)) {
    throw bad_input("the class list is empty; name at least one class, such as 'road'");
  }
  const std::vector<Letters> items = split(letters, U',');
  if (items.size() == 1 && looks_like_a_file(collapsed(letters))) {
    throw bad_input("the class list is " + shown(text) +
                    ", which looks like a file, and a string is always a list of words; read the " +
                    "file and give its content");
  }
  return entries_of(items, "the class list", [](std::size_t number) {
    return "position " + std::to_string(number) + " of the class list";
  });
}

std::vector<Entry> parse_entries(const std::vector<std::string>& spelled,
                                 const std::string& source) {
  std::vector<Letters> items;
  for (const std::string& text : spelled) items.push_back(masked(letters_of(text)));
  return entries_of(items, source, [&](std::size_t number) {
    return "entry " + std::to_string(number) + " of " + source;
  });
}

}  // namespace dedos::lib
