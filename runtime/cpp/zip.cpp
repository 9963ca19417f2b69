#include "zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "errors.h"
#include "names.h"

namespace dedos::lib {

namespace {

// As in dedos_deploy/bundle/_unpack.py: what is large and shrinks this well is not a model.
constexpr std::uint64_t kMaxUnpacked = std::uint64_t{16} << 30;
constexpr std::uint64_t kMaxRatio = 100;
constexpr std::uint64_t kSmallTotal = 64u << 20;
constexpr std::uint64_t kMaxDirectory = 8u << 20;
constexpr std::size_t kPiece = 1 << 18;
constexpr std::size_t kEndRecord = 22, kWideEnd = 56, kWideLocator = 20, kEntry = 46, kHeader = 30;

std::uint32_t u16(const std::uint8_t* at) { return at[0] | std::uint32_t{at[1]} << 8; }
std::uint32_t u32(const std::uint8_t* at) { return u16(at) | u16(at + 2) << 16; }
std::uint64_t u64(const std::uint8_t* at) { return u32(at) | std::uint64_t{u32(at + 4)} << 32; }

bool begins(const std::uint8_t* at, const char* mark) { return std::memcmp(at, mark, 4) == 0; }

}  // namespace

Archive::Archive(const ByteSource& source, std::string label)
    : source_(source), label_(std::move(label)) {
  const Directory directory = locate();
  list(directory);
  check(directory);
}

const Member* Archive::find(const std::string& name) const {
  for (const Member& member : members_) {
    if (member.name == name) return &member;
  }
  return nullptr;
}

Bytes Archive::part(std::uint64_t offset, std::uint64_t count) const {
  const std::uint64_t size = source_.size();
  Bytes bytes;
  if (offset <= size && count <= size - offset) {
    bytes.resize(count);
    if (source_.read(offset, bytes.data(), bytes.size())) return bytes;
  }
  throw bad_bundle(label_ + ": not a complete .dedos file (it ends too early); copy it again or " +
                   "export it again");
}

Archive::Directory Archive::locate() const {
  const std::uint64_t size = source_.size();
  // A comment of any length may follow the end's record.
  const std::uint64_t searched = std::min<std::uint64_t>(size, kEndRecord + 0xffff);
  const Bytes tail = part(size - searched, searched);
  for (std::size_t at = tail.size() < kEndRecord ? 0 : tail.size() - kEndRecord + 1; at-- > 0;) {
    const std::uint8_t* end = tail.data() + at;
    if (!begins(end, "PK\5\6") || u16(end + 20) != tail.size() - at - kEndRecord) continue;
    const Directory found{u32(end + 16), u32(end + 12), u16(end + 10)};
    const bool wide =
        found.offset == 0xffffffff || found.size == 0xffffffff || found.count == 0xffff;
    return wide ? locate_wide(size - searched + at) : found;
  }
  throw bad_bundle(label_ +
                   ": not a complete .dedos file (it has no directory of files); copy it " +
                   "again or export it again");
}

Archive::Directory Archive::locate_wide(std::uint64_t end) const {
  if (end >= kWideLocator + kWideEnd) {
    const Bytes locator = part(end - kWideLocator, kWideLocator);
    const Bytes record = part(end - kWideLocator - kWideEnd, kWideEnd);
    if (begins(locator.data(), "PK\6\7") && begins(record.data(), "PK\6\6")) {
      return {u64(&record[48]), u64(&record[40]), u64(&record[32])};
    }
  }
  throw bad_bundle(label_ + ": not a complete .dedos file (its directory is damaged); copy it " +
                   "again or export it again");
}

void Archive::list(const Directory& directory) {
  if (directory.size > kMaxDirectory) {
    throw bad_bundle(label_ + ": not a complete .dedos file (its directory is too long); copy it " +
                     "again or export it again");
  }
  const Bytes bytes = part(directory.offset, directory.size);
  std::uint64_t count = 0;
  for (std::size_t at = 0; at < bytes.size(); ++count) {
    const std::uint8_t* entry_at = bytes.data() + at;
    const std::size_t left = bytes.size() - at;
    const std::size_t name = left < kEntry ? 0 : u16(entry_at + 28);
    const std::size_t extra = left < kEntry ? 0 : u16(entry_at + 30);
    const std::size_t length = kEntry + name + extra + (left < kEntry ? 0 : u16(entry_at + 32));
    if (left < length || !begins(entry_at, "PK\1\2")) {
      throw bad_bundle(label_ +
                       ": not a complete .dedos file (its directory is damaged); copy it " +
                       "again or export it again");
    }
    at += length;
    if (name > 0 && entry_at[kEntry + name - 1] == '/') continue;  // a folder
    if (members_.size() == kMaxFiles) {
      throw bad_bundle(label_ + ": holds more than " + std::to_string(kMaxFiles) + " files");
    }
    members_.push_back(entry(entry_at, name, extra));
  }
  if (count != directory.count) {
    throw bad_bundle(label_ + ": not a complete .dedos file (its directory has " +
                     std::to_string(count) + " entries and announces " +
                     std::to_string(directory.count) + "); copy it again or export it again");
  }
}

Member Archive::entry(const std::uint8_t* at, std::size_t name, std::size_t extra) const {
  Member member{std::string(reinterpret_cast<const char*>(at) + kEntry, name),
                u16(at + 10) == 8,
                u32(at + 16),
                u32(at + 20),
                u32(at + 24),
                u32(at + 42)};
  const std::string file = label_ + ": file " + shown(member.name);
  if (!is_safe_name(member.name)) throw bad_bundle(file + " has a name that a bundle may not use");
  const std::uint32_t kind = u32(at + 38) >> 16 & 0170000;
  if (kind != 0 && kind != 0100000) throw bad_bundle(file + " is not a regular file");
  if (u16(at + 8) & 0x61)
    throw bad_bundle(file + " is encrypted or patched, which bundles never are");
  if (u16(at + 10) != 0 && u16(at + 10) != 8) {
    throw bad_bundle(file + " is neither stored nor deflated");
  }
  // Numbers that do not fit into 32 bits stand in an extra field, in this order.
  for (std::size_t i = 0; i + 4 <= extra;) {
    const std::uint8_t* field = at + kEntry + name + i;
    const std::size_t length = u16(field + 2);
    if (i + 4 + length > extra) throw bad_bundle(file + " has a damaged entry");
    std::size_t used = 0;
    for (std::uint64_t* number : {&member.size, &member.packed, &member.offset}) {
      if (u16(field) != 1 || *number != 0xffffffff) continue;
      if (used + 8 > length) throw bad_bundle(file + " has a damaged entry");
      *number = u64(field + 4 + used);
      used += 8;
    }
    i += 4 + length;
  }
  return member;
}

void Archive::check(const Directory& directory) const {
  std::vector<std::string> names;
  std::uint64_t total = 0;
  for (const Member& member : members_) {
    names.push_back(member.name);
    total += std::min(member.size, kMaxUnpacked + 1);
  }
  const std::string problem = clash(names);
  if (!problem.empty()) throw bad_bundle(label_ + ": " + problem);
  if (total > kMaxUnpacked || total > std::max(kSmallTotal, kMaxRatio * source_.size())) {
    throw bad_bundle(label_ + ": would unpack from " + std::to_string(source_.size()) + " to " +
                     std::to_string(total) + " bytes, which no bundle does");
  }
  // Bytes that unpack to several files make very much of a small archive.
  std::vector<Member> sorted = members_;
  std::sort(sorted.begin(), sorted.end(),
            [](const Member& a, const Member& b) { return a.offset < b.offset; });
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const std::uint64_t limit = i + 1 < sorted.size() ? sorted[i + 1].offset : directory.offset;
    const std::uint64_t head = kHeader + sorted[i].name.size();
    if (sorted[i].offset > limit || head > limit - sorted[i].offset ||
        sorted[i].packed > limit - sorted[i].offset - head) {
      throw bad_bundle(label_ + ": file " + shown(sorted[i].name) + " overlaps what follows it");
    }
  }
}

std::uint64_t Archive::start_of(const Member& member) const {
  const Bytes header = part(member.offset, kHeader + member.name.size());
  if (!begins(header.data(), "PK\3\4") || u16(&header[26]) != member.name.size() ||
      std::memcmp(header.data() + kHeader, member.name.data(), member.name.size()) != 0) {
    throw bad_bundle(label_ + ": file " + shown(member.name) +
                     " is damaged (its own header says otherwise than the directory); copy the " +
                     "bundle again or export it again");
  }
  return member.offset + header.size() + u16(&header[28]);
}

void Archive::unpack(const Member& member, const Sink& sink) const {
  const std::uint64_t start = start_of(member);
  uLong crc = crc32(0, nullptr, 0);
  std::uint64_t size = 0;
  const Sink counted = [&](const std::uint8_t* bytes, std::size_t count) {
    size += count;
    if (size > member.size) {
      throw bad_bundle(label_ + ": file " + shown(member.name) + " is longer than announced");
    }
    crc = crc32(crc, bytes, static_cast<uInt>(count));
    sink(bytes, count);
  };
  member.deflated ? inflate(member, start, counted) : copy(member, start, counted);
  if (size != member.size || (crc != member.crc && kHashesCount)) {
    throw bad_bundle(label_ + ": file " + shown(member.name) +
                     " is damaged (its length or its CRC is another); copy the bundle again or " +
                     "export it again");
  }
}

void Archive::copy(const Member& member, std::uint64_t start, const Sink& sink) const {
  for (std::uint64_t at = 0; at < member.packed; at += kPiece) {
    const Bytes piece = part(start + at, std::min<std::uint64_t>(kPiece, member.packed - at));
    sink(piece.data(), piece.size());
  }
}

void Archive::inflate(const Member& member, std::uint64_t start, const Sink& sink) const {
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) {
    throw Error(DEDOS_INTERNAL, "zlib does not start; there may be no memory left");
  }
  struct Closing {
    z_stream& stream;
    ~Closing() { inflateEnd(&stream); }
  } closing{stream};
  Bytes out(std::min<std::uint64_t>(kPiece, member.size + 1));
  int state = Z_OK;
  for (std::uint64_t at = 0; at < member.packed && state == Z_OK; at += kPiece) {
    Bytes piece = part(start + at, std::min<std::uint64_t>(kPiece, member.packed - at));
    stream.next_in = piece.data();
    stream.avail_in = static_cast<uInt>(piece.size());
    do {
      stream.next_out = out.data();
      stream.avail_out = static_cast<uInt>(out.size());
      state = ::inflate(&stream, Z_NO_FLUSH);
      if (state == Z_BUF_ERROR) state = Z_OK;  // it wants the next piece
      if (state != Z_OK && state != Z_STREAM_END) break;
      sink(out.data(), out.size() - stream.avail_out);
    } while (state == Z_OK && stream.avail_out == 0);
  }
  if (state != Z_STREAM_END) {
    throw bad_bundle(label_ + ": file " + shown(member.name) +
                     " is damaged (it does not unpack); copy the bundle again or export it again");
  }
}

Bytes Archive::read(const Member& member) const {
  Bytes bytes;
  // What the directory announces may be a lie, so that room is made as bytes come.
  bytes.reserve(std::min<std::uint64_t>(member.size, kSmallTotal));
  unpack(member, [&](const std::uint8_t* piece, std::size_t count) {
    bytes.insert(bytes.end(), piece, piece + count);
  });
  return bytes;
}

}  // namespace dedos::lib
