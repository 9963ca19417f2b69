// What the manifest of a bundle says, checked by the rules of dedos_deploy/bundle/manifest.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dedos::lib {

constexpr int kFormatVersion = 1;
constexpr int kScoreStride = 4;  // pixels of the network input per cell of the score map

struct Manifest {
  std::string preset;
  std::string target;
  std::int32_t height = 0, width = 0;  // network size in pixels
  std::int32_t text_width = 0;
  std::int32_t batch = 0;
  bool half_scores = false;       // the graph gives float16
  std::int32_t pooled_width = 0;  // of features that it gives beside the scores, 0 for none
  std::string template_name;
  std::vector<std::string> templates;  // each with one {}
  std::int32_t context_length = 0;
  std::map<std::string, double> thresholds;  // by class name
  double default_threshold = 0.0;
  std::string checkpoint_sha256;  // of the model; "" where it is not known
  std::string base_vocabulary;    // "" for none
  std::vector<std::string> vocabularies;
  std::string tiles;  // through which frames are to be looked at; "off" for none
  std::map<std::string, std::string> files;  // SHA-256 of every file but the manifest

  // Throws Error: unsupported version for a newer format, else bad bundle naming the first field
  // that is unknown, missing, mistyped or at odds with another one. The model's configuration is
  // compared where it says the same as another field, and not read otherwise.
  static Manifest parse(const std::string& text, const std::string& label);
};

}  // namespace dedos::lib
