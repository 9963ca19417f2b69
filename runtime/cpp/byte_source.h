// Where the bytes of an archive come from: a regular file, or memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dedos::lib {

using Bytes = std::vector<std::uint8_t>;

// The most bytes of a file that is read as a whole.
constexpr std::uint64_t kMaxRead = std::uint64_t{2} << 30;

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual std::uint64_t size() const = 0;
  // Fills `out`, or returns false where there are not as many bytes.
  virtual bool read(std::uint64_t offset, void* out, std::size_t count) const = 0;
};

class FileSource : public ByteSource {
 public:
  // Throws Error (bad bundle) for what cannot be opened or is no regular file; label: what messages
  // call it.
  FileSource(const std::string& path, const std::string& label);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  std::uint64_t size() const override { return size_; }
  bool read(std::uint64_t offset, void* out, std::size_t count) const override;

 private:
  int descriptor_;
  std::uint64_t size_;
};

class MemorySource : public ByteSource {
 public:
  // The bytes stay the caller's.
  MemorySource(const std::uint8_t* bytes, std::size_t count) : bytes_(bytes), count_(count) {}

  std::uint64_t size() const override { return count_; }
  bool read(std::uint64_t offset, void* out, std::size_t count) const override;

 private:
  const std::uint8_t* bytes_;
  std::size_t count_;
};

// The whole of a source. Throws Error (bad bundle) for more than `limit` bytes; file: what messages
// call it.
Bytes all_of(const ByteSource& source, std::uint64_t limit, const std::string& file);

// The whole of a file that the caller named: what is wrong with it is bad input, no bad bundle.
Bytes content_of(const std::string& path, std::uint64_t limit, const std::string& name);

}  // namespace dedos::lib
