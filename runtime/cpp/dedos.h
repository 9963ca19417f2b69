/* libdedos: frames in, label maps out, without Python. C99 and later; dedos.hpp wraps it for C++17.
 *
 * Every function that can fail returns a dedos_status; what went wrong is then one sentence in
 * dedos_last_error. Threads: a segmenter may be used by any number of threads at once. Frames of
 * one segmenter are labelled one after another; dedos_set_classes takes effect between two of them.
 * A result is for one thread at a time, and belongs to no segmenter: it may be read, and freed,
 * after that is closed. No other call may be under way on a segmenter that is closed. After a fork
 * the child opens segmenters of its own: one of its parent is refused there, and closing it frees
 * nothing. Such a child ends by _exit or exec, since ONNX Runtime's own end waits for threads that
 * only its parent has.
 */
#ifndef DEDOS_H_
#define DEDOS_H_

#include <stddef.h>
#include <stdint.h>

#define DEDOS_API __attribute__((visibility("default")))

#define DEDOS_VERSION_MAJOR 0
#define DEDOS_VERSION_MINOR 1
#define DEDOS_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dedos_status {
  DEDOS_OK = 0,
  DEDOS_BAD_INPUT = 1,           /* an argument, a class list or a file is not usable */
  DEDOS_BAD_BUNDLE = 2,          /* damaged, incomplete, or at odds with its manifest */
  DEDOS_UNSUPPORTED_VERSION = 3, /* written by a newer format than this library reads */
  DEDOS_ENGINE_ERROR = 4,        /* ONNX Runtime is missing, or a graph does not load or run */
  DEDOS_INTERNAL = 5             /* no memory, or a fault of this library */
} dedos_status;

typedef enum dedos_background {
  DEDOS_BACKGROUND_THRESHOLD = 0, /* unlabelled where the best class scores below its threshold */
  DEDOS_BACKGROUND_NEGATIVES = 1, /* also where a word of the bundle's base vocabulary wins */
  DEDOS_BACKGROUND_NONE = 2       /* every pixel has its best class */
} dedos_background;

typedef enum dedos_format {
  DEDOS_BGR = 0,
  DEDOS_RGB = 1,
  DEDOS_NV12_BT601 = 2, /* as OpenCV takes it; luma from 16 to 235 */
  DEDOS_NV12_BT601_FULL = 3,
  DEDOS_NV12_BT709 = 4, /* usual from 720 rows on */
  DEDOS_NV12_BT709_FULL = 5
} dedos_format;

typedef struct dedos_segmenter dedos_segmenter;
typedef struct dedos_result dedos_result;

/* Fill it by dedos_options_init, then change what you want: `size` tells which fields there are. */
typedef struct dedos_options {
  size_t size;
  dedos_background background;
  double threshold;        /* in [0, 1], for entries without their own; below 0 for the bundle's */
  int threads;             /* at most one per usable core; 0 for as many */
  int text_threads;        /* of the text tower, for words that are new after the first; 1 */
  int verify;              /* 1: hash every file of the bundle; 0: those up to 1 MiB */
  const char* onnxruntime; /* path of libonnxruntime.so; NULL for DEDOS_ONNXRUNTIME of the
                              environment, or else what the loader finds */
  const char* const* vocabulary_files; /* made by the Python package for this bundle: words that
                                          need not be encoded */
  size_t vocabulary_count;
  const char* words_file; /* opens with the words of this file, as dedos_set_words_file takes it,
                             and `classes` NULL; NULL: there is none */
  int ignore_tiles;       /* of a bundle that asks for tiles, windows through which large frames are
                             looked at, which this library does not do: 1 labels frames whole, 0 refuses
                             it; confidences of a calibrated one are then not known to be worth what
                             they say, since its curves were learned through windows */
} dedos_options;

/* A picture of the caller's, which is only read during the call. */
typedef struct dedos_frame {
  size_t size; /* sizeof(dedos_frame) */
  dedos_format format;
  int32_t height; /* pixels; even for NV12 */
  int32_t width;
  const uint8_t* pixels; /* three bytes a pixel, or luma */
  int64_t pitch;         /* bytes from row to row; 0 for rows without gaps */
  const uint8_t*
      chroma; /* of NV12: height / 2 rows of U and V in turn; NULL where it follows luma */
  int64_t chroma_pitch; /* 0 for that of luma */
} dedos_frame;

/* What a result holds. All pointers stay the result's, until it is used again or freed. */
typedef struct dedos_view {
  size_t size; /* sizeof(dedos_view), set by the caller */
  int32_t height;
  int32_t width;
  const uint8_t* label_map_8; /* [height][width] class ids; NULL while there are over 254 classes */
  const uint16_t* label_map_16; /* the same for over 254 classes; NULL otherwise */
  const uint8_t* confidence;    /* [height][width], 255 times the winning score, or of a calibrated
                                   bundle what that score is worth (see docs/evaluation.md) */
  int32_t none_id;              /* of unlabelled pixels: 255 or 65535 */
  int32_t class_count;          /* names, those of earlier class lists included */
  const char* const* names;     /* [class_count], by class id, UTF-8 */
  const int64_t* counts;        /* [class_count] pixels per class id */
  int32_t id_count;             /* entries of the class list of this frame */
  const int32_t* class_ids;     /* [id_count], in its order */
  int64_t vocabulary_version;   /* 1 for the first class list, one more per change */
  double pre_ms, engine_ms, post_ms;
} dedos_view;

/* "0.1.0"; of the library that is loaded, which may be newer than this header. */
DEDOS_API const char* dedos_version(void);

/* The sentence of the last failure in this thread, "" before any; valid until the next one. */
DEDOS_API const char* dedos_last_error(void);

/* Sets defaults; size: sizeof(dedos_options). */
DEDOS_API void dedos_options_init(dedos_options* options, size_t size);

/* Opens a bundle, a folder or a .dedos file, with a class list such as "road,car|automobile@0.4";
 * or NULL for that of options->words_file; options: NULL for defaults. *segmenter is NULL after a
 * failure. */
DEDOS_API dedos_status dedos_open(const char* bundle, const char* classes,
                                  const dedos_options* options, dedos_segmenter** segmenter);

/* Frees a segmenter; NULL is allowed. */
DEDOS_API void dedos_close(dedos_segmenter* segmenter);

/* Network size of the bundle in pixels; frames may have any. */
DEDOS_API dedos_status dedos_network_size(const dedos_segmenter* segmenter, int32_t* height,
                                          int32_t* width);

/* Replaces the class list from the next frame on; after a failure the old one stays. Names keep
 * their ids. version: may be NULL. Of two calls at once the later one wins. */
DEDOS_API dedos_status dedos_set_classes(dedos_segmenter* segmenter, const char* classes,
                                         int64_t* version);

/* The same with the class list of a words file, as dedos-train tune-words of the Python package
 * writes it: words with embeddings that were tuned on one model, which another model refuses. Words
 * keep what the file gave them in later class lists, too, until another words file comes. */
DEDOS_API dedos_status dedos_set_words_file(dedos_segmenter* segmenter, const char* path,
                                            int64_t* version);

/* An empty result, which any number of frames may be labelled into, one after another. */
DEDOS_API dedos_status dedos_result_create(dedos_result** result);

/* Frees a result; NULL is allowed. */
DEDOS_API void dedos_result_free(dedos_result* result);

/* Labels a frame into `result`, whose earlier content is gone also after a failure. Where frames
 * keep their size nothing of theirs is allocated. */
DEDOS_API dedos_status dedos_segment(dedos_segmenter* segmenter, const dedos_frame* frame,
                                     dedos_result* result);

/* Fills `view`; fails for a result that holds none. */
DEDOS_API dedos_status dedos_result_view(const dedos_result* result, dedos_view* view);

#ifdef __cplusplus
}
#endif

#endif /* DEDOS_H_ */
