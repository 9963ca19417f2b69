#include "curves_file.h"

#include <algorithm>

#include "errors.h"
#include "json.h"
#include "names.h"

namespace dedos::lib {

namespace {

constexpr const char* kCurvesFormat = "dedos-confidence-curves";
constexpr int kCurvesVersion = 1;
constexpr std::size_t kLettersOfHash = 12;
using Kind = Json::Kind;

Error wrong_curves(const std::string& where, const std::string& problem) {
  return bad_bundle(where + ": " + problem + "; calibrate the bundle again");
}

const Json& curves_field(const Json& object, const char* name, Kind kind,
                         const std::string& where) {
  const Json* value = object.find(name);
  if (value == nullptr) throw wrong_curves(where, "key " + shown(name) + " is missing");
  if (!value->is(kind)) {
    throw wrong_curves(where, "field " + shown(name) + " cannot be " + kind_name(value->kind));
  }
  return *value;
}

Curve curve_of(const Json& list, const std::string& path, const std::string& where) {
  const std::string name = "field " + shown(path);
  if (!list.is(Kind::kList) || list.items.size() != kLevels) {
    throw wrong_curves(where, name + " is no list of " + std::to_string(kLevels) + " values");
  }
  Curve curve{};
  for (std::size_t i = 0; i < curve.size(); ++i) {
    const Json& item = list.items[i];
    if (!item.is(Kind::kNumber) || !item.whole || item.number < 0 || item.number > 255) {
      throw wrong_curves(where, name + " has a value that is no whole number from 0 to 255");
    }
    curve[i] = static_cast<std::uint8_t>(item.number);
  }
  if (!std::is_sorted(curve.begin(), curve.end())) {
    throw wrong_curves(where, name + " falls, but more score is never worth less");
  }
  return curve;
}

void check_format(const Json& json, const std::string& where) {
  if (!json.is(Kind::kObject)) throw wrong_curves(where, "must hold one JSON object");
  const Json& version = curves_field(json, "version", Kind::kNumber, where);
  if (version.whole && version.number > kCurvesVersion) {
    throw newer_version(where + ": field 'version'",
                        std::to_string(static_cast<std::int64_t>(version.number)), kCurvesVersion);
  }
  if (!version.whole || version.number != kCurvesVersion ||
      curves_field(json, "format", Kind::kText, where).text != kCurvesFormat) {
    throw wrong_curves(
        where, std::string("fields 'format' and 'version' must be '") + kCurvesFormat + "' and 1");
  }
  curves_field(json, "learned", Kind::kObject, where);
  const char* known[] = {"format", "version", "graph_sha256", "learned", "overall", "classes"};
  for (const std::string& key : json.keys) {
    if (std::find(std::begin(known), std::end(known), key) == std::end(known)) {
      throw wrong_curves(where, "unknown key " + shown(key));
    }
  }
}

}  // namespace

CurvesFile CurvesFile::of(const Bundle& bundle) {
  for (const auto& [name, unused] : bundle.manifest().files) {
    if (!is_curves_file(name)) continue;
    const Bytes bytes = bundle.read(name);
    return parse({bytes.begin(), bytes.end()}, bundle.label() + ": file " + shown(name),
                 bundle.manifest().files.at(kModel));
  }
  return {};
}

CurvesFile CurvesFile::parse(const std::string& text, const std::string& where,
                             const std::string& graph) {
  const Json json = Json::parse(text, where);
  check_format(json, where);
  CurvesFile file;
  file.any_ = true;
  file.overall_ = curve_of(curves_field(json, "overall", Kind::kList, where), "overall", where);
  const Json& classes = curves_field(json, "classes", Kind::kObject, where);
  for (std::size_t i = 0; i < classes.keys.size(); ++i) {
    const std::string& name = classes.keys[i];
    file.by_name_[name] = curve_of(classes.items[i], "classes." + name, where);
  }
  const std::string& its = curves_field(json, "graph_sha256", Kind::kText, where).text;
  if (its != graph) {
    throw bad_bundle(where + ": learned with another graph (" +
                     shown(its.substr(0, kLettersOfHash)) + ", not " +
                     shown(graph.substr(0, kLettersOfHash)) +
                     "); calibrate this bundle itself with dedos-eval calibrate-confidence");
  }
  return file;
}

std::vector<std::uint8_t> CurvesFile::rows(const std::vector<std::string>& names,
                                           const std::set<std::string>& without) const {
  std::vector<std::uint8_t> rows;
  if (!any_) return rows;
  for (const std::string& name : names) {
    const auto own = without.count(name) > 0 ? by_name_.end() : by_name_.find(name);
    const Curve& curve = own == by_name_.end() ? overall_ : own->second;
    rows.insert(rows.end(), curve.begin(), curve.end());
  }
  rows.insert(rows.end(), overall_.begin(), overall_.end());
  return rows;
}

}  // namespace dedos::lib
