// libdedos for C++17: dedos.h with owners for what it makes and exceptions for what fails.
//
//   dedos::Segmenter segmenter("street.dedos", "road,car|automobile");
//   dedos::Result result;
//   segmenter.segment(dedos::Frame::bgr(pixels, 480, 640), result);
//   result.view().label_map_8[0];
#ifndef DEDOS_HPP_
#define DEDOS_HPP_

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dedos.h"

namespace dedos {

class Error : public std::runtime_error {
 public:
  Error(dedos_status status, const std::string& sentence)
      : std::runtime_error(sentence), status_(status) {}

  dedos_status status() const noexcept { return status_; }

 private:
  dedos_status status_;
};

inline void check(dedos_status status) {
  if (status != DEDOS_OK) throw Error(status, dedos_last_error());
}

struct Options {
  dedos_background background = DEDOS_BACKGROUND_THRESHOLD;
  double threshold = -1.0;  // below 0: the bundle's
  int threads = 0;          // 0: one per usable core
  int text_threads = 1;
  bool verify = true;
  std::string onnxruntime;  // path of libonnxruntime.so; "": DEDOS_ONNXRUNTIME, or the loader's
  std::vector<std::string> vocabulary_files;
  std::string words_file;     // opens with its words, and with "" as classes; "": there is none
  bool ignore_tiles = false;  // label frames whole although the bundle asks for tiles
};

// A picture of the caller's. pitch: bytes from row to row, 0 for rows without gaps.
struct Frame : dedos_frame {
  Frame(dedos_format format, const std::uint8_t* pixels, std::int32_t height, std::int32_t width,
        std::int64_t pitch = 0, const std::uint8_t* chroma = nullptr, std::int64_t chroma_pitch = 0)
      : dedos_frame{sizeof(dedos_frame), format, height, width, pixels, pitch, chroma,
                    chroma_pitch} {}

  static Frame bgr(const std::uint8_t* pixels, std::int32_t height, std::int32_t width,
                   std::int64_t pitch = 0) {
    return {DEDOS_BGR, pixels, height, width, pitch};
  }
  static Frame rgb(const std::uint8_t* pixels, std::int32_t height, std::int32_t width,
                   std::int64_t pitch = 0) {
    return {DEDOS_RGB, pixels, height, width, pitch};
  }
};

// What came of the last frame; for one thread at a time.
class Result {
 public:
  Result() {
    dedos_result* made = nullptr;
    check(dedos_result_create(&made));
    owned_.reset(made);
  }

  // Pointers into this result, until it is used again or destroyed.
  dedos_view view() const {
    dedos_view view{};
    view.size = sizeof view;
    check(dedos_result_view(owned_.get(), &view));
    return view;
  }

  dedos_result* get() const noexcept { return owned_.get(); }

 private:
  struct Free {
    void operator()(dedos_result* result) const noexcept { dedos_result_free(result); }
  };
  std::unique_ptr<dedos_result, Free> owned_;
};

// Labels frames by class names; from any thread.
class Segmenter {
 public:
  Segmenter(const std::string& bundle, const std::string& classes, const Options& options = {}) {
    std::vector<const char*> files;
    for (const std::string& file : options.vocabulary_files) files.push_back(file.c_str());
    dedos_options given;
    dedos_options_init(&given, sizeof given);
    given.background = options.background;
    given.threshold = options.threshold;
    given.threads = options.threads;
    given.text_threads = options.text_threads;
    given.verify = options.verify ? 1 : 0;
    given.onnxruntime = options.onnxruntime.empty() ? nullptr : options.onnxruntime.c_str();
    given.vocabulary_files = files.data();
    given.vocabulary_count = files.size();
    const bool from_file = !options.words_file.empty();
    given.words_file = from_file ? options.words_file.c_str() : nullptr;
    given.ignore_tiles = options.ignore_tiles ? 1 : 0;
    dedos_segmenter* made = nullptr;
    check(dedos_open(bundle.c_str(), from_file && classes.empty() ? nullptr : classes.c_str(),
                     &given, &made));
    owned_.reset(made);
  }

  // Returns the version that results carry from the next frame on.
  std::int64_t set_classes(const std::string& classes) {
    std::int64_t version = 0;
    check(dedos_set_classes(owned_.get(), classes.c_str(), &version));
    return version;
  }

  // The same with the class list and the embeddings of a words file.
  std::int64_t set_words_file(const std::string& path) {
    std::int64_t version = 0;
    check(dedos_set_words_file(owned_.get(), path.c_str(), &version));
    return version;
  }

  void segment(const dedos_frame& frame, Result& result) {
    check(dedos_segment(owned_.get(), &frame, result.get()));
  }

  dedos_segmenter* get() const noexcept { return owned_.get(); }

 private:
  struct Close {
    void operator()(dedos_segmenter* segmenter) const noexcept { dedos_close(segmenter); }
  };
  std::unique_ptr<dedos_segmenter, Close> owned_;
};

}  // namespace dedos

#endif  // DEDOS_HPP_
