#include "json.h"

#include <cmath>
#include <locale>
#include <sstream>
#include <string_view>
#include <unordered_set>

#include "errors.h"
#include "utf8.h"

namespace dedos::lib {

namespace {

constexpr int kDeepest = 64;

class Reader {
 public:
  Reader(const std::string& text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json value = read(0);
    skip_spaces();
    if (at_ != text_.size()) fail("something follows its value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw bad_bundle(where_ + ": is not valid JSON (" + why + " at byte " + std::to_string(at_) +
                     ")");
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_spaces() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r') ++at_;
  }

  bool accept(char letter) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != letter) return false;
    ++at_;
    return true;
  }

  void expect(char letter) {
    if (!accept(letter)) fail(std::string("no ") + letter);
  }

  bool accept_word(std::string_view word) {
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }

  Json read(int depth) {
    if (depth > kDeepest) fail("nested too deeply");
    skip_spaces();
    Json value;
    switch (peek()) {
      case '{':
        read_object(value, depth);
        break;
      case '[':
        read_list(value, depth);
        break;
      case '"':
        value.kind = Json::Kind::kText;
        value.text = read_text();
        break;
      default:
        read_plain(value);
    }
    return value;
  }

  void read_plain(Json& value) {
    if (accept_word("null")) return;
    if (accept_word("true") || accept_word("false")) {
      value.kind = Json::Kind::kBool;
      value.truth = text_[at_ - 2] == 'u';
      return;
    }
    read_number(value);
  }

  void read_object(Json& value, int depth) {
    value.kind = Json::Kind::kObject;
    expect('{');
    if (accept('}')) return;
    do {
      skip_spaces();
      if (peek() != '"') fail("no key");
      value.keys.push_back(read_text());
      expect(':');
      value.items.push_back(read(depth + 1));
    } while (accept(','));
    expect('}');
    std::unordered_set<std::string_view> seen;
    for (const std::string& key : value.keys) {
      if (!seen.insert(key).second)
        throw bad_bundle(where_ + ": has the key " + shown(key) + " twice");
    }
  }

  void read_list(Json& value, int depth) {
    value.kind = Json::Kind::kList;
    expect('[');
    if (accept(']')) return;
    do {
      value.items.push_back(read(depth + 1));
    } while (accept(','));
    expect(']');
    value.items.shrink_to_fit();
  }

  std::size_t digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ - start;
  }

  void read_number(Json& value) {
    const std::size_t start = at_;
    if (peek() == '-') ++at_;
    const std::size_t first = at_;
    const std::size_t count = digits();
    if (count == 0 || (count > 1 && text_[first] == '0')) fail("no value");
    bool whole = count <= 15;
    if (peek() == '.') {
      ++at_;
      whole = false;
      if (digits() == 0) fail("no digit");
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      whole = false;
      if (peek() == '+' || peek() == '-') ++at_;
      if (digits() == 0) fail("no digit");
    }
    if (at_ - start > 400) fail("a number is too long");
    value.kind = Json::Kind::kNumber;
    value.whole = whole;
    if (whole) {
      for (std::size_t i = first; i < at_; ++i) value.number = 10 * value.number + (text_[i] - '0');
      if (first != start) value.number = -value.number;
      return;
    }
    std::istringstream stream(text_.substr(start, at_ - start));
    stream.imbue(std::locale::classic());  // the program's may have a decimal comma
    if (!(stream >> value.number) || !std::isfinite(value.number)) fail("a number is too large");
  }

  char32_t read_hex() {
    char32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char digit = peek();
      const int part = digit >= '0' && digit <= '9'   ? digit - '0'
                       : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                       : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                      : -1;
      if (part < 0) fail("no hexadecimal digit");
      value = value << 4 | static_cast<char32_t>(part);
    }
    return value;
  }

  void read_escape(std::string& out) {
    const char letter = peek();
    ++at_;
    static const std::string_view kShort = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    const std::size_t known = kShort.find(letter);
    if (letter != '\0' && known != std::string_view::npos) {
      out += kMeant[known];
      return;
    }
    if (letter != 'u') fail("an unknown escape");
    char32_t code = read_hex();
    if (code >= 0xd800 && code < 0xdc00 && accept_word("\\u")) {
      const char32_t low = read_hex();
      if (low < 0xdc00 || low >= 0xe000) fail("half a letter");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code < 0xe000) fail("half a letter");
    append_letter(out, code);
  }

  std::string read_text() {
    std::string out;
    for (++at_;;) {
      if (at_ >= text_.size()) fail("a string has no end");
      const char letter = text_[at_];
      if (letter == '"') {
        ++at_;
        return out;
      }
      if (letter == '\\') {
        ++at_;
        read_escape(out);
        continue;
      }
      if (static_cast<unsigned char>(letter) < 0x20) fail("a control character");
      const std::size_t start = at_;
      if (next_letter(text_, at_) == kNoLetter) fail("no UTF-8 text");
      out.append(text_, start, at_ - start);
    }
  }

  const std::string& text_;
  const std::string& where_;
  std::size_t at_ = 0;
};

}  // namespace

Json Json::parse(const std::string& text, const std::string& where) {
  return Reader(text, where).document();
}

const Json* Json::find(const std::string& key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &items[i];
  }
  return nullptr;
}

const char* kind_name(Json::Kind kind) {
  static const char* const kNames[] = {"null",     "true or false", "a number",
                                       "a string", "a list",        "an object"};
  return kNames[static_cast<int>(kind)];
}

}  // namespace dedos::lib
