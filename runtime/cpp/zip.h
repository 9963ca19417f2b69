// A `.dedos` file: a ZIP archive of stored and deflated files with checked names and sizes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "byte_source.h"

namespace dedos::lib {

struct Member {
  std::string name;
  bool deflated;
  std::uint32_t crc;
  std::uint64_t packed;  // bytes in the archive
  std::uint64_t size;    // bytes unpacked
  std::uint64_t offset;  // of its own header
};

using Sink = std::function<void(const std::uint8_t*, std::size_t)>;

class Archive {
 public:
  // Reads the directory. Throws Error (bad bundle), as `unpack` does, for anything that a bundle
  // never is: damaged, encrypted, unsafe names, links, members that overlap or claim to unpack to
  // far more than a model. source: outlives the archive; label: what messages call it.
  Archive(const ByteSource& source, std::string label);

  const std::vector<Member>& members() const { return members_; }
  const Member* find(const std::string& name) const;

  // Hands the bytes of a member to `sink`, piece by piece; its length and CRC are checked.
  void unpack(const Member& member, const Sink& sink) const;
  Bytes read(const Member& member) const;

 private:
  struct Directory {
    std::uint64_t offset, size, count;
  };

  Directory locate() const;
  Directory locate_wide(std::uint64_t end) const;
  void list(const Directory& directory);
  Member entry(const std::uint8_t* at, std::size_t name, std::size_t extra) const;
  void check(const Directory& directory) const;
  std::uint64_t start_of(const Member& member) const;
  void copy(const Member& member, std::uint64_t start, const Sink& sink) const;
  void inflate(const Member& member, std::uint64_t start, const Sink& sink) const;
  Bytes part(std::uint64_t offset, std::uint64_t count) const;

  const ByteSource& source_;
  std::string label_;
  std::vector<Member> members_;
};

}  // namespace dedos::lib
