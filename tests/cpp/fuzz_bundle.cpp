// libFuzzer's entry: bytes opened as a `.dedos` file, and its vocabularies, statistics of trust and
// tokenizer read; and bytes read as a words file.
// Built with FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION, where files need not match their SHA-256.
#include <cstddef>
#include <cstdint>
#include <string>

#include "bundle.h"
#include "errors.h"
#include "names.h"
#include "tokenizer.h"
#include "trust_file.h"
#include "vocabulary_file.h"
#include "words_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
  try {
    dedos::lib::WordsFile::parse({bytes, bytes + count}, "words");
  } catch (const dedos::lib::Error&) {
  }
  try {
    const auto bundle = dedos::lib::Bundle::from_memory(bytes, count, true);
    for (const std::string& name : bundle.manifest().vocabularies) {
      try {
        dedos::lib::VocabularyFile::parse(bundle.read(dedos::lib::vocabulary_file(name)), name);
      } catch (const dedos::lib::Error&) {
      }
    }
    try {
      dedos::lib::check_trust(bundle);
    } catch (const dedos::lib::Error&) {
    }
    const auto json = bundle.read(dedos::lib::kTokenizer);
    const dedos::lib::Tokenizer tokenizer(std::string(json.begin(), json.end()),
                                          bundle.manifest().context_length);
    tokenizer.encode("a photo of a Traffic light's 12 <end");
  } catch (const dedos::lib::Error&) {
  }
  return 0;
}
