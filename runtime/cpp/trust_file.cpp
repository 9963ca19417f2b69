#include "trust_file.h"

#include <cstdint>
#include <string>

#include "errors.h"
#include "names.h"
#include "safetensors.h"

namespace dedos::lib {

namespace {

constexpr SafetensorsKind kStatistics = {"dedos-trust", 1, "export the bundle again",
                                         "export the bundle again"};
constexpr double kMostFeatures = 1 << 20;

}  // namespace

void check_trust(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  if (manifest.files.count(kTrust) == 0) return;
  const std::string name = bundle.label() + ": file " + shown(kTrust);
  const Bytes bytes = bundle.read(kTrust);
  const SafetensorsHeader header = SafetensorsHeader::parse(bytes, kStatistics, name);
  std::int64_t features = 0;
  for (int block = 0;; ++block) {
    const Json* scale = header.json.find(std::to_string(block) + ".scale");
    if (scale == nullptr) break;
    const Json* shape = scale->find("shape");
    const Json* size = shape != nullptr && shape->items.size() == 1 ? &shape->items[0] : nullptr;
    if (size == nullptr || !size->whole || size->number < 1 || size->number > kMostFeatures) {
      throw damaged(kStatistics, name, "block " + std::to_string(block) + " has no features");
    }
    features += static_cast<std::int64_t>(size->number);
  }
  if (features != manifest.pooled_width) {
    throw damaged(kStatistics, name,
                  "it is of " + std::to_string(features) + " features, and the graph gives " +
                      std::to_string(manifest.pooled_width));
  }
}

}  // namespace dedos::lib
