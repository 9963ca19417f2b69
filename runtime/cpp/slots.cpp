#include "slots.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <set>

namespace dedos::lib {

namespace {

constexpr std::size_t kIdsKept = 254;
constexpr std::size_t kBuckets[] = {16, 64, 256};
constexpr std::size_t kWholeBaseSlots = 64;
constexpr float kNoThreshold = -1.0f;
constexpr std::uint16_t kNone = 65535;
// As in dedos_deploy/text/negatives.py.
constexpr double kCloseDeviations = 4.0;
constexpr double kFallbackSimilarity = 0.85;
constexpr std::size_t kFewWords = 8;

float dot(const float* a, const float* b, std::size_t count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return static_cast<float>(sum);
}

// Relative to the usual similarity of different words, since text towers differ.
double close_similarity(const VocabularyFile& base) {
  const std::size_t count = base.words.size();
  if (count < kFewWords) return kFallbackSimilarity;
  double sum = 0.0, squares = 0.0;
  std::vector<float> cosines;
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < count; ++j) {
      if (i == j) continue;
      cosines.push_back(dot(&base.rows[i * base.width], &base.rows[j * base.width], base.width));
      sum += cosines.back();
    }
  }
  const double mean = sum / static_cast<double>(cosines.size());
  for (const float cosine : cosines) squares += (cosine - mean) * (cosine - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(cosines.size()));
  // Never so high that a word with the same embedding, up to rounding, would be kept.
  return std::min(mean + kCloseDeviations * deviation, 0.999);
}

// How many of `available` negatives go beside `used` slots of the user's words.
std::size_t spare_slots(std::size_t used, std::size_t available) {
  std::size_t limit = used + available;
  if (used < kBuckets[2]) {
    const std::size_t bucket = *std::find_if(std::begin(kBuckets), std::end(kBuckets),
                                             [&](std::size_t size) { return used <= size; });
    limit = std::min(limit, std::max(kWholeBaseSlots, bucket));
  }
  return std::min(available, limit - std::min(limit, used));
}

// Gives the entries their ids. Names keep theirs while they are among the last that were asked for;
// then the id that was not asked for longest goes to a new name.
void give_ids(const std::vector<Entry>& entries, SlotTable& table) {
  std::map<std::string, std::int32_t> ids;
  for (std::size_t i = 0; i < table.names.size(); ++i)
    ids[table.names[i]] = static_cast<std::int32_t>(i);
  std::set<std::string> asked;
  for (const Entry& entry : entries) asked.insert(entry.words[0]);
  std::vector<std::pair<std::int64_t, std::int32_t>> idle;
  for (const auto& [name, id] : ids) {
    if (asked.count(name) == 0) idle.emplace_back(table.used[static_cast<std::size_t>(id)], id);
  }
  std::sort(idle.begin(), idle.end());
  std::size_t next_idle = 0;
  for (const Entry& entry : entries) {
    const std::string& name = entry.words[0];
    const auto known = ids.find(name);
    std::int32_t id = known == ids.end() ? -1 : known->second;
    if (id < 0 && (table.names.size() < kIdsKept || next_idle == idle.size())) {
      id = static_cast<std::int32_t>(table.names.size());
      table.names.push_back(name);
      table.used.push_back(table.version);
    } else if (id < 0) {
      id = idle[next_idle++].second;
      table.names[static_cast<std::size_t>(id)] = name;
    }
    table.used[static_cast<std::size_t>(id)] = table.version;
    table.class_ids.push_back(id);
  }
  while (table.names.size() > kIdsKept && table.used.back() != table.version) {
    table.names.pop_back();
    table.used.pop_back();
  }
}

}  // namespace

SlotRules::SlotRules(const std::map<std::string, double>& by_name, double bundle_default,
                     dedos_background background, double threshold, const VocabularyFile* base)
    : by_name_(threshold < 0.0 ? by_name : std::map<std::string, double>()),
      default_(threshold < 0.0 ? bundle_default : threshold),
      enabled_(background != DEDOS_BACKGROUND_NONE),
      base_(base),
      close_(base == nullptr ? 0.0 : close_similarity(*base)) {}

float SlotRules::threshold_of(const Entry& entry) const {
  if (!enabled_) return kNoThreshold;
  if (entry.threshold.has_value()) return static_cast<float>(*entry.threshold);
  const auto named = by_name_.find(entry.words[0]);
  return static_cast<float>(named == by_name_.end() ? default_ : named->second);
}

void SlotRules::add_negatives(const std::vector<Entry>& entries, const std::vector<float>& rows,
                              std::size_t words, SlotTable& table) const {
  std::set<std::string> taken;
  for (const Entry& entry : entries) {
    for (const std::string& word : entry.words) taken.insert(canonical(word));
  }
  std::size_t left = spare_slots(words, base_->words.size());
  const std::size_t width = base_->width;
  for (std::size_t i = 0; i < base_->words.size() && left > 0; ++i) {
    const float* row = &base_->rows[i * width];
    bool close = taken.count(canonical(base_->words[i])) > 0;
    for (std::size_t w = 0; w < words && !close; ++w)
      close = dot(row, &rows[w * width], width) >= close_;
    if (close) continue;
    table.text.insert(table.text.end(), row, row + width);
    table.thresholds.push_back(kNoThreshold);
    table.slot_ids.push_back(kNone);
    --left;
  }
}

std::shared_ptr<SlotTable> SlotRules::table(const std::vector<Entry>& entries,
                                            const std::vector<float>& rows,
                                            const SlotTable* previous) const {
  auto table = std::make_shared<SlotTable>();
  table->version = previous == nullptr ? 1 : previous->version + 1;
  if (previous != nullptr) {
    table->names = previous->names;
    table->used = previous->used;
  }
  give_ids(entries, *table);
  table->text = rows;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    for (std::size_t w = 0; w < entries[i].words.size(); ++w) {
      table->thresholds.push_back(threshold_of(entries[i]));
      table->slot_ids.push_back(static_cast<std::uint16_t>(table->class_ids[i]));
    }
  }
  if (base_ != nullptr) add_negatives(entries, rows, table->slot_ids.size(), *table);
  table->valid.assign(table->slot_ids.size(), 1.0f);
  for (const std::string& name : table->names) table->name_pointers.push_back(name.c_str());
  return table;
}

}  // namespace dedos::lib
