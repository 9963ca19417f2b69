// The C interface: checks what it is given, and lets no exception out.
#include "dedos.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "errors.h"
#include "segmenter.h"

using dedos::lib::bad_input;

struct dedos_segmenter {
  dedos_segmenter(const char* bundle, const char* classes, const dedos_options& options)
      : segmenter(bundle, classes, options) {}
  dedos::lib::Segmenter segmenter;
  // A forked child has none of its threads, and locks which nobody will release.
  pid_t process = ::getpid();
};

struct dedos_result {
  dedos::lib::Result result;
};

namespace {

#define DEDOS_TEXT(number) #number
#define DEDOS_TEXT_OF(number) DEDOS_TEXT(number)
constexpr const char* kVersionText = DEDOS_TEXT_OF(DEDOS_VERSION_MAJOR) "." DEDOS_TEXT_OF(
    DEDOS_VERSION_MINOR) "." DEDOS_TEXT_OF(DEDOS_VERSION_PATCH);

// Fields of the first release, which every caller has.
constexpr std::size_t kLeastOptions = offsetof(dedos_options, words_file);
constexpr std::size_t kLeastFrame = sizeof(dedos_frame);
constexpr std::size_t kLeastView = sizeof(dedos_view);

std::string& last_error() {
  thread_local std::string sentence;
  return sentence;
}

dedos_status failed(dedos_status status, const char* sentence) noexcept {
  try {
    last_error() = sentence;
  } catch (const std::bad_alloc&) {
    last_error().clear();
  }
  return status;
}

template <typename Work>
dedos_status guarded(const Work& work) noexcept {
  try {
    work();
    return DEDOS_OK;
  } catch (const dedos::lib::Error& error) {
    return failed(error.status, error.what());
  } catch (const std::bad_alloc&) {
    return failed(DEDOS_INTERNAL, "there is no memory left; free some or use smaller frames");
  } catch (const std::exception& error) {
    return failed(DEDOS_INTERNAL, error.what());
  }
}

void need(const void* given, const char* name) {
  if (given == nullptr) throw bad_input(std::string(name) + " is NULL, and must be given");
}

void need_usable(const dedos_segmenter* segmenter) {
  need(segmenter, "segmenter");
  if (segmenter->process == ::getpid()) return;
  throw dedos::lib::engine_error(
      "this segmenter was made in another process; open one after the fork");
}

void check_size(std::size_t size, std::size_t least, const char* name) {
  if (size >= least) return;
  throw bad_input(std::string(name) + ".size is " + std::to_string(size) + ", but at least " +
                  std::to_string(least) + " is needed; set it to sizeof(" + name + ")");
}

dedos_options defaults() {
  dedos_options options{};
  options.size = sizeof options;
  options.background = DEDOS_BACKGROUND_THRESHOLD;
  options.threshold = -1.0;
  options.text_threads = 1;
  options.verify = 1;
  return options;
}

// The caller's, with defaults for fields of a later release than the caller's.
dedos_options known_fields(const dedos_options& given) {
  check_size(given.size, kLeastOptions, "dedos_options");
  dedos_options options = defaults();
  std::memcpy(&options, &given, std::min(given.size, sizeof options));
  return options;
}

void check_options(const dedos_options& options) {
  if (options.background < DEDOS_BACKGROUND_THRESHOLD ||
      options.background > DEDOS_BACKGROUND_NONE) {
    throw bad_input("the background " + std::to_string(static_cast<int>(options.background)) +
                    " is unknown; it is one of dedos_background");
  }
  // Written so that NaN counts as wrong.
  if (!(options.threshold <= 1.0)) {
    throw bad_input("the threshold is " + std::to_string(options.threshold) +
                    ", and must lie in [0, 1], or below 0 for the bundle's own");
  }
  if (options.text_threads < 1) {
    throw bad_input("text_threads is " + std::to_string(options.text_threads) +
                    ", and must be at least 1");
  }
  if (options.vocabulary_count > 0)
    need(options.vocabulary_files, "dedos_options.vocabulary_files");
  for (std::size_t i = 0; i < options.vocabulary_count; ++i) {
    need(options.vocabulary_files[i], "a path of dedos_options.vocabulary_files");
  }
}

}  // namespace

const char* dedos_version(void) { return kVersionText; }

const char* dedos_last_error(void) { return last_error().c_str(); }

void dedos_options_init(dedos_options* options, size_t size) {
  if (options == nullptr) return;
  const dedos_options known = defaults();
  std::memset(options, 0, size);
  std::memcpy(options, &known, std::min(size, sizeof known));
  if (size >= sizeof options->size) options->size = size;
}

dedos_status dedos_open(const char* bundle, const char* classes, const dedos_options* options,
                        dedos_segmenter** segmenter) {
  return guarded([&] {
    need(segmenter, "segmenter");
    *segmenter = nullptr;
    need(bundle, "bundle");
    const dedos_options used = options == nullptr ? defaults() : known_fields(*options);
    check_options(used);
    if (used.words_file == nullptr) need(classes, "classes");
    if (used.words_file != nullptr && classes != nullptr) {
      throw bad_input(
          "classes and dedos_options.words_file are both given; give one, and NULL for the other");
    }
    *segmenter = new dedos_segmenter(bundle, classes, used);
  });
}

void dedos_close(dedos_segmenter* segmenter) {
  // In a forked child it would wait for threads that are the parent's.
  if (segmenter != nullptr && segmenter->process == ::getpid()) delete segmenter;
}

dedos_status dedos_network_size(const dedos_segmenter* segmenter, int32_t* height, int32_t* width) {
  return guarded([&] {
    need(segmenter, "segmenter");
    need(height, "height");
    need(width, "width");
    *height = segmenter->segmenter.manifest().height;
    *width = segmenter->segmenter.manifest().width;
  });
}

dedos_status dedos_set_classes(dedos_segmenter* segmenter, const char* classes, int64_t* version) {
  return guarded([&] {
    need_usable(segmenter);
    need(classes, "classes");
    const std::int64_t now = segmenter->segmenter.set_classes(classes);
    if (version != nullptr) *version = now;
  });
}

dedos_status dedos_set_words_file(dedos_segmenter* segmenter, const char* path, int64_t* version) {
  return guarded([&] {
    need_usable(segmenter);
    need(path, "path");
    const std::int64_t now = segmenter->segmenter.set_words_file(path);
    if (version != nullptr) *version = now;
  });
}

dedos_status dedos_result_create(dedos_result** result) {
  return guarded([&] {
    need(result, "result");
    *result = nullptr;
    *result = new dedos_result;
  });
}

void dedos_result_free(dedos_result* result) { delete result; }

dedos_status dedos_segment(dedos_segmenter* segmenter, const dedos_frame* frame,
                           dedos_result* result) {
  return guarded([&] {
    need(result, "result");
    result->result.table = nullptr;
    need_usable(segmenter);
    need(frame, "frame");
    check_size(frame->size, kLeastFrame, "dedos_frame");
    segmenter->segmenter.segment(*frame, result->result);
  });
}

dedos_status dedos_result_view(const dedos_result* result, dedos_view* view) {
  return guarded([&] {
    need(result, "result");
    need(view, "view");
    check_size(view->size, kLeastView, "dedos_view");
    const dedos::lib::Result& from = result->result;
    if (from.table == nullptr) {
      throw bad_input("the result holds no frame; call dedos_segment with it first");
    }
    const bool wide = from.table->wide();
    view->height = from.height;
    view->width = from.width;
    view->label_map_8 = wide ? nullptr : from.narrow.data();
    view->label_map_16 = wide ? from.wide.data() : nullptr;
    view->confidence = from.confidence.data();
    view->none_id = wide ? 65535 : 255;
    view->class_count = static_cast<std::int32_t>(from.table->names.size());
    view->names = from.table->name_pointers.data();
    view->counts = from.counts.data();
    view->id_count = static_cast<std::int32_t>(from.table->class_ids.size());
    view->class_ids = from.table->class_ids.data();
    view->vocabulary_version = from.table->version;
    view->pre_ms = from.pre_ms;
    view->engine_ms = from.engine_ms;
    view->post_ms = from.post_ms;
  });
}
