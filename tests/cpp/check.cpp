// What the tests see of libdedos beyond its C interface, and runs that sanitizers watch.
//
//   check tokens TOKENIZER LENGTH < prompts    one line of tokens, or "plain: 0", per prompt
//   check classes < lists                      entries of a class list per line, or its error
//   check resize H W h w < pixels > pixels     uint8 [H][W][3] to [h][w][3]
//   check open < archives                      each after its length in 8 bytes: opened as bundles
//   check threads BUNDLE ONNXRUNTIME           two threads on one segmenter, one of them changes
//   words
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "bundle.h"
#include "classes.h"
#include "dedos.hpp"
#include "errors.h"
#include "resize.h"
#include "tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count);

namespace {

using dedos::lib::Bytes;

Bytes standard_input() {
  const std::string all{std::istreambuf_iterator<char>(std::cin), {}};
  return {all.begin(), all.end()};
}

int tokens(const std::string& path, int length) {
  const dedos::lib::FileSource source(path, path);
  std::string json(source.size(), '\0');
  source.read(0, json.data(), json.size());
  const dedos::lib::Tokenizer tokenizer(json, length);
  for (std::string line; std::getline(std::cin, line);) {
    try {
      if (!dedos::lib::is_plain(line)) throw dedos::lib::bad_input("not plain");
      for (const std::int64_t token : tokenizer.encode(line)) std::printf("%" PRId64 " ", token);
      std::printf("\n");
    } catch (const dedos::lib::Error& error) {
      std::printf("error: %s\n", error.what());
    }
  }
  return 0;
}

int classes() {
  for (std::string line; std::getline(std::cin, line);) {
    try {
      for (const dedos::lib::Entry& entry : dedos::lib::parse_classes(line)) {
        for (const std::string& word : entry.words) std::printf("%s\x1f", word.c_str());
        std::printf("%.17g\x1e", entry.threshold.value_or(-1.0));
      }
      std::printf("\n");
    } catch (const dedos::lib::Error& error) {
      std::printf("error: %s\n", error.what());
    }
  }
  return 0;
}

int resize(char** sides) {
  const std::int32_t height = std::atoi(sides[0]), width = std::atoi(sides[1]);
  const Bytes pixels = standard_input();
  dedos::lib::Resizer resizer(std::atoi(sides[2]), std::atoi(sides[3]));
  Bytes out(static_cast<std::size_t>(std::atoi(sides[2])) * std::atoi(sides[3]) * 3);
  resizer.resize({pixels.data(), height, width, std::int64_t{width} * 3}, out.data());
  std::fwrite(out.data(), 1, out.size(), stdout);
  return 0;
}

int open_all() {
  const Bytes bytes = standard_input();
  int opened = 0;
  for (std::size_t at = 0; at + 8 <= bytes.size(); ++opened) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    // A copy of its own, so that a read behind its end is seen.
    const Bytes archive(bytes.begin() + static_cast<std::ptrdiff_t>(at + 8),
                        bytes.begin() + static_cast<std::ptrdiff_t>(at + 8 + length));
    LLVMFuzzerTestOneInput(archive.data(), archive.size());
    at += 8 + length;
  }
  std::printf("%d opened\n", opened);
  return 0;
}

// Labels frames while another thread does the same and changes the words.
int threads(const std::string& bundle, const std::string& onnxruntime) {
  dedos::Options options;
  options.onnxruntime = onnxruntime;
  options.threads = 2;
  dedos::Segmenter segmenter(bundle, "road,sky", options);
  int wrong = 0;
  const auto work = [&](bool changing, int& failures) {
    std::vector<std::uint8_t> pixels(90 * 120 * 3, changing ? 40 : 200);
    dedos::Result result;
    for (int i = 0; i < 4; ++i) {
      if (changing) segmenter.set_classes(i % 2 == 0 ? "road,car,sky" : "tree|bush,sky");
      segmenter.segment(dedos::Frame::bgr(pixels.data(), 90, 120), result);
      const dedos_view view = result.view();
      for (int p = 0; p < view.height * view.width; ++p) {
        failures += view.label_map_8[p] != 255 && view.label_map_8[p] >= view.class_count;
      }
    }
  };
  int failures[2] = {};
  std::thread other(work, true, std::ref(failures[0]));
  work(false, failures[1]);
  other.join();
  wrong += failures[0] + failures[1];
  try {
    segmenter.set_classes("@");
    ++wrong;
  } catch (const dedos::Error& error) {
    wrong += error.status() != DEDOS_BAD_INPUT;
  }
  std::printf("%d wrong\n", wrong);
  return wrong != 0;
}

int run(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  if (mode == "tokens" && count == 4) return tokens(words[2], std::atoi(words[3]));
  if (mode == "classes") return classes();
  if (mode == "resize" && count == 6) return resize(words + 2);
  if (mode == "open") return open_all();
  if (mode == "threads" && count == 4) return threads(words[2], words[3]);
  std::fprintf(stderr, "check: unknown work\n");
  return 2;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "check: %s\n", error.what());
    return 1;
  }
}
