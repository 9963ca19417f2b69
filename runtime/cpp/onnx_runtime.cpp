#include "onnx_runtime.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

namespace dedos::lib {

namespace {

// Version of the interface that is asked for: ONNX Runtime 1.17 and every later one has it.
constexpr std::uint32_t kApiVersion = 17;

// Places in its table of functions, which is only ever added to: as in onnxruntime_c_api.h of
// versions 1.23 and 1.29, counted there, and run with 1.20 to 1.32 (docs/cpp.md).
enum ApiEntry : std::size_t {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetSessionExecutionMode = 13,
  kDisableMemPattern = 17,
  kSetSessionLogSeverityLevel = 22,
  kSetSessionGraphOptimizationLevel = 23,
  kSetIntraOpNumThreads = 24,
  kSetInterOpNumThreads = 25,
  kSessionGetInputCount = 30,
  kSessionGetOutputCount = 31,
  kSessionGetInputTypeInfo = 33,
  kSessionGetOutputTypeInfo = 34,
  kSessionGetInputName = 36,
  kSessionGetOutputName = 37,
  kCreateTensorWithDataAsOrtValue = 49,
  kCastTypeInfoToTensorInfo = 55,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kCreateCpuMemoryInfo = 69,
  kAllocatorFree = 76,
  kGetAllocatorWithDefaultOptions = 78,
  kReleaseStatus = 93,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTypeInfo = 98,
  kReleaseSessionOptions = 100,
  kAddSessionConfigEntry = 130,
};

struct ApiBase {
  void* const* (*get_api)(std::uint32_t version);
  const char* (*get_version)();
};

constexpr int kFatalOnly = 4, kSequential = 0, kOptimizeAll = 99;
constexpr int kDeviceAllocator = 0, kDefaultMemory = 0;

using Release = void (*)(void*);
using Make = void* (*)(void**);
using SetNumber = void* (*)(void*, int);

Error no_runtime(const std::string& why) {
  return engine_error("ONNX Runtime is not usable (" + why +
                      "); name its libonnxruntime.so in dedos_options.onnxruntime or in " +
                      "DEDOS_ONNXRUNTIME, such as that of pip's onnxruntime, 1.20 or newer");
}

// Owns one of its objects.
class Handle {
 public:
  Handle(Release release, void* object) : release_(release), object_(object) {}
  ~Handle() {
    if (object_ != nullptr) release_(object_);
  }
  Handle(Handle&& other) noexcept : release_(other.release_), object_(other.object_) {
    other.object_ = nullptr;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  Handle& operator=(Handle&&) = delete;
  void* get() const { return object_; }

 private:
  Release release_;
  void* object_;
};

// Of a library that is cut off, dlopen maps what is not there, and the process ends where it is
// first looked at. What else is wrong with a file dlopen says itself. A name without a slash is
// looked for by the loader, which does not tell where it found it.
void check_whole(const std::string& path) {
  struct stat found;
  if (path.find('/') == std::string::npos || ::stat(path.c_str(), &found) != 0 ||
      !S_ISREG(found.st_mode) || ::access(path.c_str(), R_OK) != 0) {
    return;
  }
  const FileSource source(path, path);
  Elf64_Ehdr header;
  if (!source.read(0, &header, sizeof header) || header.e_phentsize != sizeof(Elf64_Phdr) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) {
    return;
  }
  for (std::size_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr part;
    const bool there = source.read(header.e_phoff + i * sizeof part, &part, sizeof part);
    if (there && (part.p_type != PT_LOAD || (part.p_filesz <= source.size() &&
                                             part.p_offset <= source.size() - part.p_filesz))) {
      continue;
    }
    throw no_runtime(shown(path, 300) + " is cut off after " + std::to_string(source.size()) +
                     " bytes; copy it again");
  }
}

void* library_at(const std::string& path) {
  const char* named = std::getenv("DEDOS_ONNXRUNTIME");
  std::vector<std::string> places{"libonnxruntime.so.1", "libonnxruntime.so"};
  if (named != nullptr && *named != '\0') places = {named};
  if (!path.empty()) places = {path};
  for (const std::string& place : places) {
    check_whole(place);
    void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) return library;
  }
  throw no_runtime(::dlerror());
}

// What loading and closing a graph have freed goes back to the system: glibc keeps it for the
// thread that did so, and frames may be labelled, or words changed, by another one.
void release_freed_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace

const OnnxRuntime& OnnxRuntime::load(const std::string& path) {
  static std::mutex mutex;
  // Never freed: its threads may outlive whatever is destroyed at the end of a program.
  static auto& loaded = *new std::map<std::string, std::unique_ptr<OnnxRuntime>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<OnnxRuntime>& found = loaded[path];
  if (found == nullptr) found.reset(new OnnxRuntime(path));
  return *found;
}

OnnxRuntime::OnnxRuntime(const std::string& path) {
  void* library = library_at(path);
  void* symbol = ::dlsym(library, "OrtGetApiBase");
  if (symbol == nullptr) throw no_runtime("the library has no OrtGetApiBase");
  const ApiBase* base = reinterpret_cast<const ApiBase* (*)()>(symbol)();
  if (base == nullptr) throw no_runtime("its OrtGetApiBase gives nothing");
  version_ = base->get_version();
  table_ = base->get_api(kApiVersion);
  if (table_ == nullptr) throw no_runtime("version " + version_ + " is too old");
  const auto failed = [&](const std::string& why) { return no_runtime(version_ + ": " + why); };
  using CreateEnv = void* (*)(int, const char*, void**);
  check(entry<CreateEnv>(kCreateEnv)(kFatalOnly, "dedos", &environment_), failed);
  using CreateMemory = void* (*)(int, int, void**);
  check(entry<CreateMemory>(kCreateCpuMemoryInfo)(kDeviceAllocator, kDefaultMemory, &memory_),
        failed);
  check(entry<Make>(kGetAllocatorWithDefaultOptions)(&allocator_), failed);
}

void OnnxRuntime::check(void* status,
                        const std::function<Error(const std::string&)>& failed) const {
  if (status == nullptr) return;
  const Handle owned(entry<Release>(kReleaseStatus), status);
  std::string reason = entry<const char* (*)(void*)>(kGetErrorMessage)(status);
  for (char& c : reason) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  throw failed(reason.substr(0, 500));
}

Session::Session(const OnnxRuntime& runtime, const std::string& path, const std::string& name,
                 const SessionOptions& options)
    : runtime_(runtime), name_(name) {
  open(options, [&](void* settings) {
    using Create = void* (*)(void*, const char*, void*, void**);
    return runtime_.entry<Create>(kCreateSession)(runtime_.environment_, path.c_str(), settings,
                                                  &session_);
  });
}

Session::Session(const OnnxRuntime& runtime, const Bytes& graph, const std::string& name,
                 const SessionOptions& options)
    : runtime_(runtime), name_(name) {
  open(options, [&](void* settings) {
    using Create = void* (*)(void*, const void*, std::size_t, void*, void**);
    return runtime_.entry<Create>(kCreateSessionFromArray)(runtime_.environment_, graph.data(),
                                                           graph.size(), settings, &session_);
  });
}

Session::~Session() {
  runtime_.entry<Release>(kReleaseSession)(session_);
  release_freed_memory();
}

Error Session::unloadable(const std::string& reason) const {
  return engine_error("ONNX Runtime " + runtime_.version() + " cannot load " + name_ + ": " +
                      reason + "; use the version that the bundle was made with, or a newer one");
}

// The options are those of the Python package, so that both give the same bits.
void Session::open(const SessionOptions& options, const Opening& opening) {
  const auto failed = [this](const std::string& reason) { return unloadable(reason); };
  void* made = nullptr;
  runtime_.check(runtime_.entry<Make>(kCreateSessionOptions)(&made), failed);
  const Handle settings(runtime_.entry<Release>(kReleaseSessionOptions), made);
  const auto set = [&](ApiEntry entry, int value) {
    runtime_.check(runtime_.entry<SetNumber>(entry)(made, value), failed);
  };
  set(kSetSessionGraphOptimizationLevel, kOptimizeAll);
  set(kSetIntraOpNumThreads, options.threads);
  // What it says is in the error; a second copy on stderr would only confuse.
  set(kSetSessionLogSeverityLevel, kFatalOnly);
  if (options.sparing) {
    set(kSetSessionExecutionMode, kSequential);
    set(kSetInterOpNumThreads, 1);
    using AddEntry = void* (*)(void*, const char*, const char*);
    runtime_.check(runtime_.entry<AddEntry>(kAddSessionConfigEntry)(
                       made, "session.intra_op.allow_spinning", "0"),
                   failed);
    runtime_.check(runtime_.entry<void* (*)(void*)>(kDisableMemPattern)(made), failed);
  }
  runtime_.check(opening(made), failed);
  release_freed_memory();
}

std::vector<TensorType> Session::tensors(bool of_inputs) const {
  using Count = void* (*)(const void*, std::size_t*);
  std::size_t count = 0;
  runtime_.check(runtime_.entry<Count>(of_inputs ? kSessionGetInputCount : kSessionGetOutputCount)(
                     session_, &count),
                 [this](const std::string& reason) { return unloadable(reason); });
  std::vector<TensorType> found;
  for (std::size_t i = 0; i < count; ++i) found.push_back(tensor(i, of_inputs));
  return found;
}

TensorType Session::tensor(std::size_t index, bool of_inputs) const {
  const auto failed = [this](const std::string& reason) { return unloadable(reason); };
  TensorType found{"", 0, {}};
  using Name = void* (*)(const void*, std::size_t, void*, char**);
  char* name = nullptr;
  runtime_.check(runtime_.entry<Name>(of_inputs ? kSessionGetInputName : kSessionGetOutputName)(
                     session_, index, runtime_.allocator_, &name),
                 failed);
  found.name = name;
  runtime_.check(runtime_.entry<void* (*)(void*, void*)>(kAllocatorFree)(runtime_.allocator_, name),
                 failed);
  using Info = void* (*)(const void*, std::size_t, void**);
  void* made = nullptr;
  runtime_.check(
      runtime_.entry<Info>(of_inputs ? kSessionGetInputTypeInfo : kSessionGetOutputTypeInfo)(
          session_, index, &made),
      failed);
  const Handle info(runtime_.entry<Release>(kReleaseTypeInfo), made);
  const void* tensor = nullptr;  // a part of `info`; none for what is no tensor
  runtime_.check(runtime_.entry<void* (*)(const void*, const void**)>(kCastTypeInfoToTensorInfo)(
                     made, &tensor),
                 failed);
  if (tensor == nullptr) return found;
  runtime_.check(
      runtime_.entry<void* (*)(const void*, int*)>(kGetTensorElementType)(tensor, &found.element),
      failed);
  std::size_t sides = 0;
  runtime_.check(
      runtime_.entry<void* (*)(const void*, std::size_t*)>(kGetDimensionsCount)(tensor, &sides),
      failed);
  found.shape.resize(sides);
  using Sides = void* (*)(const void*, std::int64_t*, std::size_t);
  runtime_.check(runtime_.entry<Sides>(kGetDimensions)(tensor, found.shape.data(), sides), failed);
  return found;
}

void Session::run(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                  const std::string& subject) const {
  const auto failed = [&](const std::string& why) { return engine_error(subject + ": " + why); };
  std::vector<Handle> owned;
  std::vector<const char*> names;
  std::vector<void*> values;
  const auto add = [&](const Tensor& tensor) {
    using Create =
        void* (*)(const void*, void*, std::size_t, const std::int64_t*, std::size_t, int, void**);
    void* value = nullptr;
    runtime_.check(runtime_.entry<Create>(kCreateTensorWithDataAsOrtValue)(
                       runtime_.memory_, tensor.values, tensor.bytes, tensor.shape.data(),
                       tensor.shape.size(), static_cast<int>(tensor.element), &value),
                   failed);
    owned.emplace_back(runtime_.entry<Release>(kReleaseValue), value);
    names.push_back(tensor.name);
    values.push_back(value);
  };
  for (const Tensor& tensor : inputs) add(tensor);
  for (const Tensor& tensor : outputs) add(tensor);
  using Run = void* (*)(void*, const void*, const char* const*, const void* const*, std::size_t,
                        const char* const*, std::size_t, void**);
  const std::size_t first = inputs.size();
  runtime_.check(
      runtime_.entry<Run>(kRun)(session_, nullptr, names.data(), values.data(), first,
                                names.data() + first, outputs.size(), values.data() + first),
      failed);
}

}  // namespace dedos::lib
