// A class list turned into what the graph and the label map take, as runtime/slots.py does.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "classes.h"
#include "dedos.h"
#include "vocabulary_file.h"

namespace dedos::lib {

// One class list of a session; never changed once made.
struct SlotTable {
  std::int64_t version = 0;
  std::vector<std::string> names;       // of all classes of the session, by class id
  std::vector<std::int64_t> used;       // version that asked for each of them last
  std::vector<std::int32_t> class_ids;  // of the entries, in their order
  std::vector<float> text;              // [slots][text width]
  std::vector<float> valid;             // all 1
  std::vector<float> thresholds;
  std::vector<std::uint16_t> slot_ids;     // 65535 for negatives
  std::vector<std::uint8_t> curves;        // [names + 1][256] confidences by score, empty for none
  std::vector<const char*> name_pointers;  // into `names`

  std::size_t slots() const { return valid.size(); }
  bool wide() const { return names.size() > 254; }
};

// Lowest score that labels a pixel, and the words that compete for what nobody named.
class SlotRules {
 public:
  // base: nullptr for no negatives, and outlives the rules. threshold: below 0 for the bundle's.
  SlotRules(const std::map<std::string, double>& by_name, double bundle_default,
            dedos_background background, double threshold, const VocabularyFile* base);

  // The table that follows `previous`, nullptr for none. rows: of all words of the entries.
  std::shared_ptr<SlotTable> table(const std::vector<Entry>& entries,
                                   const std::vector<float>& rows, const SlotTable* previous) const;

 private:
  float threshold_of(const Entry& entry) const;
  void add_negatives(const std::vector<Entry>& entries, const std::vector<float>& rows,
                     std::size_t words, SlotTable& table) const;

  std::map<std::string, double> by_name_;
  double default_;
  bool enabled_;
  const VocabularyFile* base_;
  double close_ = 0.0;  // cosine from which two words count as close
};

}  // namespace dedos::lib
