#include "byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "errors.h"

namespace dedos::lib {

FileSource::FileSource(const std::string& path, const std::string& label) {
  // Without O_NONBLOCK a pipe would hold the program up before it can be told from a file.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw bad_bundle(label + ": cannot be read (" + std::generic_category().message(errno) + ")");
  }
  struct stat found;
  if (::fstat(descriptor_, &found) != 0 || !S_ISREG(found.st_mode)) {
    ::close(descriptor_);
    throw bad_bundle(label + ": is not a regular file");
  }
  size_ = static_cast<std::uint64_t>(found.st_size);
}

FileSource::~FileSource() { ::close(descriptor_); }

bool FileSource::read(std::uint64_t offset, void* out, std::size_t count) const {
  auto* next = static_cast<std::uint8_t*>(out);
  while (count > 0) {
    const ssize_t got = ::pread(descriptor_, next, std::min<std::size_t>(count, 1 << 24),
                                static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    next += got;
    offset += static_cast<std::uint64_t>(got);
    count -= static_cast<std::size_t>(got);
  }
  return true;
}

bool MemorySource::read(std::uint64_t offset, void* out, std::size_t count) const {
  if (offset > count_ || count > count_ - offset) return false;
  if (count > 0) std::memcpy(out, bytes_ + offset, count);
  return true;
}

Bytes all_of(const ByteSource& source, std::uint64_t limit, const std::string& file) {
  if (source.size() > limit) throw bad_bundle(file + " has more bytes than it may");
  Bytes bytes(source.size());
  if (!source.read(0, bytes.data(), bytes.size())) throw bad_bundle(file + " cannot be read");
  return bytes;
}

Bytes content_of(const std::string& path, std::uint64_t limit, const std::string& name) {
  try {
    return all_of(FileSource(path, name), limit, name);
  } catch (const Error& error) {
    throw bad_input(std::string(error.what()) + "; check the path");
  }
}

}  // namespace dedos::lib
