#include "safetensors.h"

#include <cstdint>

namespace dedos::lib {

namespace {

constexpr std::size_t kLengthBytes = 8;
using Kind = Json::Kind;

std::size_t length_of(const Bytes& bytes, const SafetensorsKind& kind, const std::string& name) {
  std::uint64_t length = 0;
  if (bytes.size() < kLengthBytes) throw damaged(kind, name, "it ends too early");
  for (std::size_t i = kLengthBytes; i-- > 0;) length = length << 8 | bytes[i];
  if (length > bytes.size() - kLengthBytes) throw damaged(kind, name, "it ends too early");
  return static_cast<std::size_t>(length);
}

void check_version(const std::string& version, const SafetensorsKind& kind,
                   const std::string& name) {
  if (version.empty() || version.size() > 9 ||
      version.find_first_not_of("0123456789") != std::string::npos) {
    throw bad_bundle(name + " has the version " + shown(version) + ", which is not a number");
  }
  if (std::stol(version) > kind.latest)
    throw newer_version(name + ": version", version, kind.latest);
}

}  // namespace

SafetensorsHeader SafetensorsHeader::parse(const Bytes& bytes, const SafetensorsKind& kind,
                                           const std::string& name) {
  const std::size_t length = length_of(bytes, kind, name);
  SafetensorsHeader header;
  header.end = kLengthBytes + length;
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  header.json = Json::parse(std::string(text, length), name);
  const Json* metadata = header.json.find("__metadata__");
  for (std::size_t i = 0; metadata != nullptr && i < metadata->keys.size(); ++i) {
    if (!metadata->items[i].is(Kind::kText)) {
      throw damaged(kind, name, "its metadata are no text");
    }
    header.metadata[metadata->keys[i]] = metadata->items[i].text;
  }
  if (header.metadata["format"] != kind.format) {
    throw bad_bundle(name + " has no format '" + kind.format + "'; " + kind.other);
  }
  check_version(header.metadata["version"], kind, name);
  return header;
}

Error damaged(const SafetensorsKind& kind, const std::string& name, const std::string& why) {
  return bad_bundle(name + " is damaged (" + why + "); " + kind.damaged);
}

}  // namespace dedos::lib
