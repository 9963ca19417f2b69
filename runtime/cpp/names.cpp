#include "names.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "errors.h"

namespace dedos::lib {

namespace {

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_hexadecimal(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

bool is_safe_name(const std::string& name) {
  bool first = true;
  for (const char c : name) {
    if (c == '/') {
      if (first) return false;
      first = true;
      continue;
    }
    const bool allowed = is_letter(c) || c == '_' || (!first && (c == '.' || c == '+' || c == '-'));
    if (!allowed) return false;
    first = false;
  }
  return !first && name.size() <= kMaxName;
}

bool is_sha256(const std::string& text) { return text.size() == 64 && is_hexadecimal(text); }

bool is_vocabulary_name(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName / 2 && is_letter(name[0]) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return is_letter(c) || c == '_' || c == '-'; });
}

std::string vocabulary_file(const std::string& name) {
  return "vocabularies/" + name + ".safetensors";
}

bool is_curves_file(const std::string& name) {
  constexpr const char* kBefore = "confidence-";
  constexpr const char* kAfter = ".json";
  constexpr std::size_t kDigits = 12;
  if (name.rfind(kBefore, 0) != 0 ||
      name.size() != std::strlen(kBefore) + kDigits + std::strlen(kAfter)) {
    return false;
  }
  const std::string digits = name.substr(std::strlen(kBefore), kDigits);
  return is_hexadecimal(digits) && name == kBefore + digits + kAfter;
}

std::string clash(const std::vector<std::string>& names) {
  std::map<std::string, std::string> seen;
  for (const std::string& name : names) {
    if (!seen.emplace(lower(name), name).second) return shown(name) + " comes twice";
  }
  for (const auto& [key, name] : seen) {
    for (std::size_t end = key.find('/'); end != std::string::npos; end = key.find('/', end + 1)) {
      const auto parent = seen.find(key.substr(0, end));
      if (parent != seen.end()) {
        return shown(name) + " lies in " + shown(parent->second) + ", which is a file";
      }
    }
  }
  return "";
}

}  // namespace dedos::lib
