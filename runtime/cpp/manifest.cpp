#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "errors.h"
#include "json.h"
#include "names.h"
#include "utf8.h"

namespace dedos::lib {

namespace {

constexpr double kMaxInt = 2147483647.0;
constexpr int kMaxSide = 16384;
constexpr int kMaxBatch = 1024;
constexpr int kMaxPooled = 16384;
constexpr const char* kPooledWidth = "pooled_width";
constexpr int kMostWindows = 256;
constexpr std::size_t kMaxTemplates = 256;
constexpr std::size_t kMaxTemplate = 500;

using Kind = Json::Kind;

bool is_printable(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const char32_t letter = next_letter(text, at);
    const bool control = letter < 0x20 || (letter >= 0x7f && letter < 0xa0);
    if (control || letter == 0x2028 || letter == 0x2029 || letter == kNoLetter) return false;
  }
  return true;
}

// Takes an object apart, field by field.
class Fields {
 public:
  Fields(const Json& object, std::string where, std::string path)
      : object_(object), where_(std::move(where)), path_(std::move(path)) {
    if (!object.is(Kind::kObject)) {
      throw path_.empty() ? bad_bundle(where_ + ": must hold one JSON object")
                          : mistyped(path_, "an object", object);
    }
  }

  // names: those that must be there; other: one more that may be.
  void known(std::initializer_list<const char*> names, const std::string& other = "") const {
    for (const std::string& key : object_.keys) {
      const bool is_known =
          (!other.empty() && key == other) ||
          std::any_of(names.begin(), names.end(), [&](const char* name) { return key == name; });
      if (!is_known) throw bad_bundle(where_ + ": unknown key " + shown(prefixed(key)));
    }
    for (const char* name : names) get(name);
  }

  bool has(const std::string& name) const { return object_.find(name) != nullptr; }

  const Json& get(const std::string& name) const {
    const Json* value = object_.find(name);
    if (value == nullptr)
      throw bad_bundle(where_ + ": key " + shown(prefixed(name)) + " is missing");
    return *value;
  }

  std::string text_or(const std::string& name, const std::string& otherwise) const {
    return object_.find(name) == nullptr ? otherwise : text(name);
  }

  std::string text(const std::string& name) const { return text_of(get(name), prefixed(name)); }

  // "" for null, which no text may be.
  std::string text_or_null(const std::string& name) const {
    if (get(name).is(Kind::kNull)) return "";
    const std::string value = text(name);
    if (value.empty())
      throw mistyped(prefixed(name), "null or a text that is not empty", get(name));
    return value;
  }

  double number(const std::string& name) const { return number_of(get(name), prefixed(name)); }

  std::int32_t whole(const std::string& name) const {
    const Json& value = get(name);
    if (!value.is(Kind::kNumber) || !value.whole || std::fabs(value.number) > kMaxInt) {
      throw mistyped(prefixed(name), "a whole number up to 2147483647", value);
    }
    return static_cast<std::int32_t>(value.number);
  }

  std::string one_of(const std::string& name, std::initializer_list<const char*> allowed) const {
    const std::string value = text(name);
    std::string listed;
    for (const char* known : allowed) {
      if (value == known) return value;
      listed += (listed.empty() ? "'" : ", '") + std::string(known) + "'";
    }
    throw bad_bundle(where_ + ": field " + shown(prefixed(name)) + " must be one of " + listed +
                     ", not " + shown(value));
  }

  std::vector<std::string> texts(const std::string& name) const {
    const Json& list = get(name);
    if (!list.is(Kind::kList)) throw mistyped(prefixed(name), "a list", list);
    std::vector<std::string> values;
    for (const Json& item : list.items) {
      values.push_back(text_of(item, prefixed(name) + "[" + std::to_string(values.size()) + "]"));
    }
    return values;
  }

  Fields object(const std::string& name) const { return {get(name), where_, prefixed(name)}; }

  template <typename Value, typename Of>
  std::map<std::string, Value> map(const Of& of) const {
    std::map<std::string, Value> values;
    for (std::size_t i = 0; i < object_.keys.size(); ++i) {
      const std::string& key = object_.keys[i];
      if (!is_printable(key))
        throw bad_bundle(where_ + ": " + shown(path_) + " has a key that is no text");
      values[key] = of(object_.items[i], prefixed(key));
    }
    return values;
  }

  std::string text_of(const Json& value, const std::string& path) const {
    if (!value.is(Kind::kText)) throw mistyped(path, "a string", value);
    if (!is_printable(value.text)) throw mistyped(path, "printable text on one line", value);
    return value.text;
  }

  double number_of(const Json& value, const std::string& path) const {
    if (!value.is(Kind::kNumber)) throw mistyped(path, "a finite number", value);
    return value.number;
  }

 private:
  std::string prefixed(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
  }

  Error mistyped(const std::string& path, const char* expected, const Json& found) const {
    const std::string got = found.is(Kind::kText) ? shown(found.text) : kind_name(found.kind);
    return bad_bundle(where_ + ": field " + shown(path) + " must be " + expected + ", not " + got);
  }

  const Json& object_;
  std::string where_;
  std::string path_;
};

// Says what is wrong between fields.
class Rules {
 public:
  explicit Rules(std::string where) : where_(std::move(where)) {}

  void check(bool holds, const std::string& problem) const {
    if (!holds) throw bad_bundle(where_ + ": " + problem);
  }

  void unit(double value, const std::string& field) const {
    check(value >= 0.0 && value <= 1.0, "field " + shown(field) + " must lie in [0, 1]");
  }

 private:
  std::string where_;
};

void check_version(const Fields& fields, const std::string& where) {
  const std::int32_t version = fields.whole("format_version");
  if (version > kFormatVersion) {
    throw newer_version(where + ": field 'format_version'", std::to_string(version),
                        kFormatVersion);
  }
  Rules(where).check(version == kFormatVersion, "field 'format_version' must be 1");
}

void read_spec(const Fields& spec, Manifest& manifest) {
  spec.known({"height", "width", "text_width", "batch", "score_dtype"}, kPooledWidth);
  manifest.height = spec.whole("height");
  manifest.width = spec.whole("width");
  manifest.text_width = spec.whole("text_width");
  manifest.batch = spec.whole("batch");
  manifest.half_scores = spec.one_of("score_dtype", {"float32", "float16"}) == "float16";
  manifest.pooled_width = spec.has(kPooledWidth) ? spec.whole(kPooledWidth) : 0;
}

// The number that at most so many digits write, -1 for anything else.
int number_of_digits(const std::string& text, std::size_t most) {
  const bool is_number = !text.empty() && text.size() <= most &&
                         text.find_first_not_of("0123456789") == std::string::npos;
  return is_number ? std::stoi(text) : -1;
}

// As dedos_deploy/tiles.py takes them, which bounds a stride by the shorter side of the network.
bool are_tiles(const std::string& word, std::int32_t shorter) {
  if (word == "off" || word == "auto") return true;
  const std::size_t cross = word.find('x');
  if (cross == std::string::npos) {
    const int stride = number_of_digits(word, 6);
    return stride >= 1 && 4 * std::int64_t{stride} <= 3 * std::int64_t{shorter};
  }
  const int rows = number_of_digits(word.substr(0, cross), 4);
  const int columns = number_of_digits(word.substr(cross + 1), 4);
  return rows >= 1 && columns >= 1 && rows * columns <= kMostWindows;
}

std::string tiles_of(const std::string& text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string::npos) return "";
  return lower(text.substr(first, text.find_last_not_of(' ') - first + 1));
}

void check_model(const Fields& fields, const Manifest& manifest, const Rules& rules) {
  const Fields config = fields.object("config"), clip = config.object("clip");
  const std::string& checkpoint = manifest.checkpoint_sha256;
  rules.check(
      checkpoint.empty() || is_sha256(checkpoint),
      "field 'checkpoint_sha256' must be a SHA-256 in hexadecimal, not " + shown(checkpoint));
  rules.check(!manifest.preset.empty(), "field 'preset' must not be empty");
  rules.check(config.text("preset") == manifest.preset, "field 'preset' is not 'config.preset'");
  rules.check(clip.text("activation") == fields.text("activation"),
              "field 'activation' is not 'config.clip.activation'");
  rules.check(clip.whole("text_width") == manifest.text_width,
              "field 'spec.text_width' is not 'config.clip.text_width'");
  rules.check(clip.object("text").whole("context_length") == manifest.context_length,
              "field 'context_length' is not 'config.clip.text.context_length'");
  rules.check(manifest.text_width >= 1 && manifest.text_width <= 1 << 20,
              "field 'spec.text_width' must lie in [1, 1048576]");
  // Start and end have a place each.
  rules.check(manifest.context_length >= 2 && manifest.context_length <= 1 << 20,
              "field 'context_length' must lie in [2, 1048576]");
  rules.check(manifest.batch >= 1 && manifest.batch <= kMaxBatch,
              "field 'spec.batch' must lie in [1, " + std::to_string(kMaxBatch) + "]");
  rules.check(manifest.pooled_width >= 0 && manifest.pooled_width <= kMaxPooled,
              "field 'spec.pooled_width' must lie in [0, " + std::to_string(kMaxPooled) + "]");
  for (const std::int32_t side : {manifest.height, manifest.width}) {
    rules.check(side >= kScoreStride && side <= kMaxSide && side % kScoreStride == 0,
                "fields 'spec.height' and 'spec.width' must be multiples of " +
                    std::to_string(kScoreStride) + " up to " + std::to_string(kMaxSide));
  }
  rules.check(
      are_tiles(manifest.tiles, std::min(manifest.height, manifest.width)),
      "field 'tiles' must be 'off', 'auto', a grid such as '2x3' or a stride of at most three "
      "quarters of the network's shorter side, not " +
          shown(manifest.tiles));
  for (const std::string& part : fields.get("precision").keys) {
    fields.object("precision").one_of(part, {"fp32", "fp16", "int8"});
  }
}

void check_text(const Manifest& manifest, const Rules& rules) {
  rules.check(!manifest.templates.empty(),
              "field 'templates' must hold at least one prompt template");
  rules.check(manifest.templates.size() <= kMaxTemplates,
              "field 'templates' holds more than " + std::to_string(kMaxTemplates));
  for (const std::string& sentence : manifest.templates) {
    const std::size_t first = sentence.find("{}");
    rules.check(first != std::string::npos && sentence.find("{}", first + 2) == std::string::npos,
                "field 'templates' must have one {} for the word in each, not " + shown(sentence));
    rules.check(sentence.size() <= 4 * kMaxTemplate, "field 'templates' has one that is too long");
  }
  rules.unit(manifest.default_threshold, "default_threshold");
  for (const auto& [name, value] : manifest.thresholds) rules.unit(value, "thresholds." + name);
}

void check_files(const Manifest& manifest, const Rules& rules) {
  rules.check(manifest.files.size() <= kMaxFiles,
              "field 'files' lists more than " + std::to_string(kMaxFiles));
  std::vector<std::string> names{kManifest};
  for (const auto& [name, digest] : manifest.files) {
    rules.check(
        is_safe_name(name) && name != kManifest,
        "field 'files' lists " + shown(name) + ", which cannot be the name of a bundle's file");
    rules.check(is_sha256(digest), "field " + shown("files." + name) +
                                       " must be a SHA-256 in hexadecimal, not " + shown(digest));
    names.push_back(name);
  }
  const std::string problem = clash(names);
  rules.check(problem.empty(), "field 'files' is ambiguous: " + problem);
  for (const char* name : {kModel, kTextEncoder, kTokenizer}) {
    rules.check(manifest.files.count(name) == 1,
                "field 'files' does not list " + shown(name) + ", which every bundle needs");
  }
  const bool has_trust = manifest.files.count(kTrust) == 1;
  rules.check(has_trust == (manifest.pooled_width > 0),
              "field 'spec.pooled_width' is " + std::to_string(manifest.pooled_width) +
                  ", but 'files' " + (has_trust ? "lists " : "does not list ") + shown(kTrust) +
                  "; one needs the other");
  const auto curves = std::count_if(names.begin(), names.end(), is_curves_file);
  rules.check(curves <= 1,
              "field 'files' lists confidence curves twice; a bundle has one file of them");
  std::vector<std::string> listed;
  for (const std::string& name : manifest.vocabularies) {
    rules.check(
        is_vocabulary_name(name) && std::find(listed.begin(), listed.end(), name) == listed.end(),
        "field 'vocabularies' must hold new plain names, not " + shown(name));
    rules.check(manifest.files.count(vocabulary_file(name)) == 1,
                "field 'files' does not list " + shown(vocabulary_file(name)));
    listed.push_back(name);
  }
  const std::string& base = manifest.base_vocabulary;
  rules.check(base.empty() || std::find(listed.begin(), listed.end(), base) != listed.end(),
              "field 'base_vocabulary' is " + shown(base) + ", which 'vocabularies' does not list");
}

}  // namespace

Manifest Manifest::parse(const std::string& text, const std::string& label) {
  const std::string where = label + ": " + kManifest;
  if (text.size() > kMaxManifest) throw bad_bundle(where + " has more bytes than it may");
  const Json json = Json::parse(text, where);
  const Fields fields(json, where, "");
  check_version(fields, where);
  fields.known({"preset",
                "config",
                "spec",
                "target",
                "precision",
                "activation",
                "template_name",
                "templates",
                "context_length",
                "thresholds",
                "default_threshold",
                "checkpoint_sha256",
                "tools",
                "sources",
                "licence",
                "created",
                "base_vocabulary",
                "calibration_hash",
                "vocabularies",
                "files",
                "format_version"},
               "tiles");
  Manifest manifest;
  manifest.preset = fields.text("preset");
  manifest.target = fields.one_of("target", {"cpu", "rtx", "trt", "cuda"});
  read_spec(fields.object("spec"), manifest);
  manifest.template_name = fields.text("template_name");
  manifest.templates = fields.texts("templates");
  manifest.context_length = fields.whole("context_length");
  manifest.default_threshold = fields.number("default_threshold");
  const Fields thresholds = fields.object("thresholds"), files = fields.object("files");
  manifest.thresholds = thresholds.map<double>([&](const Json& value, const std::string& path) {
    return thresholds.number_of(value, path);
  });
  manifest.checkpoint_sha256 = fields.text_or_null("checkpoint_sha256");
  manifest.base_vocabulary = fields.text_or_null("base_vocabulary");
  manifest.vocabularies = fields.texts("vocabularies");
  manifest.tiles = tiles_of(fields.text_or("tiles", "off"));
  manifest.files = files.map<std::string>(
      [&](const Json& value, const std::string& path) { return files.text_of(value, path); });
  const Rules rules(where);
  check_model(fields, manifest, rules);
  check_text(manifest, rules);
  check_files(manifest, rules);
  return manifest;
}

}  // namespace dedos::lib
