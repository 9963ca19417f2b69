// Confidence curves of a bundle: what a score was worth where labels were known, as
// dedos_deploy/confidence_curves.py writes them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bundle.h"
#include "confidence_curves.h"

namespace dedos::lib {

using Curve = std::array<std::uint8_t, kLevels>;

class CurvesFile {
 public:
  // The curves of a bundle; none for one that was not calibrated. Throws Error naming what is wrong
  // with them, or that they are of another graph.
  static CurvesFile of(const Bundle& bundle);

  // The same of a file's text; where: what messages call it; graph: SHA-256 of the bundle's graph.
  static CurvesFile parse(const std::string& text, const std::string& where,
                          const std::string& graph);

  // [names + 1][kLevels], the curve of each and that of all in the end; empty where there are none.
  // without: names that get the curve of all, whatever theirs is.
  std::vector<std::uint8_t> rows(const std::vector<std::string>& names,
                                 const std::set<std::string>& without) const;

 private:
  bool any_ = false;
  Curve overall_{};
  std::map<std::string, Curve> by_name_;
};

}  // namespace dedos::lib
