#include "errors.h"

namespace dedos::lib {

std::string shown(const std::string& text, std::size_t limit) {
  static const char kDigits[] = "0123456789abcdef";
  std::string line = "'";
  for (const unsigned char letter : text) {
    if (line.size() > limit) return line + "...'";
    if (letter >= 0x20 && letter < 0x7f) {
      line += static_cast<char>(letter);
    } else {
      line += {'\\', 'x', kDigits[letter >> 4], kDigits[letter & 15]};
    }
  }
  return line + "'";
}

Error newer_version(const std::string& what, const std::string& version, int latest) {
  return {DEDOS_UNSUPPORTED_VERSION, what + " is " + version + ", but this libdedos reads up to " +
                                         std::to_string(latest) + "; install a newer one"};
}

}  // namespace dedos::lib
