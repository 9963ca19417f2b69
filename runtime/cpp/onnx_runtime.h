// ONNX Runtime through its C interface, loaded at run time: what is used of it is declared here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "byte_source.h"
#include "errors.h"

namespace dedos::lib {

enum class Element : int { kFloat = 1, kUint8 = 2, kInt64 = 7, kHalf = 10 };

// A tensor in memory of the caller's.
struct Tensor {
  const char* name;
  Element element;
  std::vector<std::int64_t> shape;
  void* values;
  std::size_t bytes;
};

// What a graph says of a tensor; a side of -1 may be of any length.
struct TensorType {
  std::string name;
  int element;
  std::vector<std::int64_t> shape;
};

class OnnxRuntime {
 public:
  // The library at `path`, "" for what DEDOS_ONNXRUNTIME or else the loader names; loaded once and
  // for good. Throws Error (engine).
  static const OnnxRuntime& load(const std::string& path);

  const std::string& version() const { return version_; }

 private:
  friend class Session;
  explicit OnnxRuntime(const std::string& path);

  template <typename Function>
  Function entry(std::size_t index) const {
    return reinterpret_cast<Function>(table_[index]);
  }

  // Throws what `failed` makes of the reason for a status that is no success.
  void check(void* status, const std::function<Error(const std::string&)>& failed) const;

  void* const* table_ = nullptr;
  void* environment_ = nullptr;
  void* memory_ = nullptr;
  void* allocator_ = nullptr;
  std::string version_;
};

struct SessionOptions {
  int threads;
  bool sparing;  // for frames: no spinning, no second block of memory, one thread between operators
};

// A graph, opened; for one thread at a time.
class Session {
 public:
  // name: of its file, for messages; throws Error (engine).
  Session(const OnnxRuntime& runtime, const std::string& path, const std::string& name,
          const SessionOptions& options);
  Session(const OnnxRuntime& runtime, const Bytes& graph, const std::string& name,
          const SessionOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  std::vector<TensorType> inputs() const { return tensors(true); }
  std::vector<TensorType> outputs() const { return tensors(false); }

  // Runs the graph on `inputs` into `outputs`; throws Error (engine), `subject` failed.
  void run(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
           const std::string& subject) const;

 private:
  using Opening = std::function<void*(void*)>;
  void open(const SessionOptions& options, const Opening& opening);
  std::vector<TensorType> tensors(bool of_inputs) const;
  TensorType tensor(std::size_t index, bool of_inputs) const;
  Error unloadable(const std::string& reason) const;

  const OnnxRuntime& runtime_;
  std::string name_;
  void* session_ = nullptr;
};

}  // namespace dedos::lib
