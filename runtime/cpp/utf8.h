// UTF-8 taken apart and put together, as strict as RFC 3629.
#pragma once

#include <cstdint>
#include <string>

namespace dedos::lib {

constexpr char32_t kNoLetter = 0xffffffff;

// Returns the letter at `at` and moves on behind it; kNoLetter, without moving, for what is not
// UTF-8.
inline char32_t next_letter(const std::string& text, std::size_t& at) {
  const auto byte = [&](std::size_t index) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[index]));
  };
  const std::uint32_t first = byte(at);
  if (first < 0x80) {
    ++at;
    return first;
  }
  const std::size_t count = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  if (first < 0xc2 || first > 0xf4 || at + count >= text.size()) return kNoLetter;
  std::uint32_t letter = first & (0x3fu >> count);
  for (std::size_t i = 1; i <= count; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return kNoLetter;
    letter = letter << 6 | (byte(at + i) & 0x3f);
  }
  const std::uint32_t least = count == 3 ? 0x10000 : count == 2 ? 0x800 : 0x80;
  if (letter < least || letter > 0x10ffff || (letter >= 0xd800 && letter < 0xe000)) {
    return kNoLetter;
  }
  at += count + 1;
  return letter;
}

inline void append_letter(std::string& text, char32_t letter) {
  if (letter < 0x80) {
    text += static_cast<char>(letter);
    return;
  }
  const int count = letter >= 0x10000 ? 3 : letter >= 0x800 ? 2 : 1;
  static const unsigned kFirst[] = {0, 0xc0, 0xe0, 0xf0};
  text += static_cast<char>(kFirst[count] | letter >> (6 * count));
  for (int i = count - 1; i >= 0; --i) text += static_cast<char>(0x80 | (letter >> (6 * i) & 0x3f));
}

inline bool is_utf8(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    if (next_letter(text, at) == kNoLetter) return false;
  }
  return true;
}

}  // namespace dedos::lib
