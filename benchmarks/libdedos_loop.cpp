// A C++ program as a robot's: labels the frames of a file, one after another, for
// benchmarks/libdedos.py.
//
//   loop BUNDLE CLASSES ONNXRUNTIME THREADS FRAMES RESULTS
//
// FRAMES has height and width in 4 bytes each before the BGR of every frame. RESULTS, "" for none,
// gets label map (uint8), confidence and counts (int64) of each. Prints seconds of labelling and
// the peak of memory in kB.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dedos.hpp>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace {

long peak_kb() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    long value = 0;
    if (word == "VmHWM:" && status >> value) return value;
  }
  return 0;
}

void write(std::ofstream& out, const void* bytes, std::size_t count) {
  out.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
}

}  // namespace

int main(int count, char** words) {
  if (count != 7) return 2;
  try {
    dedos::Options options;
    options.onnxruntime = words[3];
    options.threads = std::atoi(words[4]);
    dedos::Segmenter segmenter(words[1], words[2], options);
    std::ifstream frames(words[5], std::ios::binary);
    std::ofstream results;
    if (*words[6] != '\0') results.open(words[6], std::ios::binary);
    dedos::Result result;
    std::vector<std::uint8_t> pixels;
    double seconds = 0.0;
    for (std::int32_t size[2]; frames.read(reinterpret_cast<char*>(size), sizeof size);) {
      pixels.resize(static_cast<std::size_t>(size[0]) * size[1] * 3);
      frames.read(reinterpret_cast<char*>(pixels.data()),
                  static_cast<std::streamsize>(pixels.size()));
      const auto started = std::chrono::steady_clock::now();
      segmenter.segment(dedos::Frame::bgr(pixels.data(), size[0], size[1]), result);
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
      if (!results.is_open()) continue;
      const dedos_view view = result.view();
      const std::size_t area = pixels.size() / 3;
      write(results, view.label_map_8, area);
      write(results, view.confidence, area);
      write(results, view.counts,
            sizeof(std::int64_t) * static_cast<std::size_t>(view.class_count));
    }
    std::cout << seconds << ' ' << peak_kb() << '\n';
    return 0;
  } catch (const dedos::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
