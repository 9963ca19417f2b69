// JSON as RFC 8259 has it, and no more: a key given twice, NaN, a lone surrogate, text that is not
// UTF-8 and deep nesting are refused.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dedos::lib {

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kText, kList, kObject };

  // Throws Error (bad bundle): "`where`: is not valid JSON (...)".
  static Json parse(const std::string& text, const std::string& where);

  Kind kind = Kind::kNull;
  bool truth = false;
  bool whole = false;  // of a number: written without fraction and exponent, and in 53 bits
  double number = 0.0;
  std::string text;
  std::vector<Json> items;        // of a list, or the values of an object
  std::vector<std::string> keys;  // of an object

  bool is(Kind asked) const { return kind == asked; }
  // The value of a key, nullptr where there is none.
  const Json* find(const std::string& key) const;
};

// "a string", "null" and so on, for messages.
const char* kind_name(Json::Kind kind);

}  // namespace dedos::lib
