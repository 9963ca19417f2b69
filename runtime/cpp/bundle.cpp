#include "bundle.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "errors.h"
#include "names.h"
#include "sha256.h"

namespace dedos::lib {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kSmallFile = 1u << 20;
constexpr std::size_t kChunk = 1 << 18;

std::string reason(int number) { return std::generic_category().message(number); }

bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end();
}

// A file of a bundle's folder: regular, and no link that leads out of it.
std::string checked_file(const std::string& folder, const std::string& name,
                         const std::string& label) {
  std::error_code failed;
  const fs::path path = fs::canonical(fs::path(folder) / name, failed);
  if (failed == std::errc::no_such_file_or_directory || failed == std::errc::not_a_directory) {
    throw bad_bundle(label + ": file " + shown(name) +
                     " is missing; copy the bundle again or export it again");
  }
  if (failed) {
    throw bad_bundle(label + ": file " + shown(name) + " cannot be read (" + failed.message() +
                     ")");
  }
  if (!is_inside(path, fs::canonical(folder))) {
    throw bad_bundle(label + ": file " + shown(name) + " is a link that leads out of the bundle");
  }
  return path.string();
}

// Names of all files below a folder; what lies in the engine cache is the runtime's own business.
void list_files(const fs::path& folder, const std::string& prefix,
                std::vector<std::string>& names) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = prefix + entry.path().filename().string();
    if (entry.is_directory() && !entry.is_symlink() && name.size() < kMaxName) {
      if (name != kEngines) list_files(entry.path(), name + "/", names);
    } else {
      names.push_back(name);
    }
  }
}

std::string hash_of(const ByteSource& source, const std::string& file) {
  Sha256 hash;
  Bytes piece(kChunk);
  for (std::uint64_t at = 0; at < source.size(); at += kChunk) {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, source.size() - at));
    if (!source.read(at, piece.data(), count)) throw bad_bundle(file + " cannot be read");
    hash.add(piece.data(), count);
  }
  return hash.hex();
}

std::string as_text(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace

Bundle Bundle::open(const std::string& path, bool verify) {
  Bundle bundle("bundle " + shown(path, 300));
  struct stat found;
  if (::stat(path.c_str(), &found) != 0) {
    throw bad_input(bundle.label_ + (errno == ENOENT || errno == ENOTDIR
                                         ? " does not exist; give a bundle folder or a .dedos file"
                                         : " cannot be read (" + reason(errno) +
                                               "); check the path and its permissions"));
  }
  if (S_ISDIR(found.st_mode)) {
    bundle.open_folder(path, verify);
  } else {
    bundle.open_archive(std::make_unique<FileSource>(path, bundle.label_), verify);
  }
  return bundle;
}

Bundle Bundle::from_memory(const std::uint8_t* bytes, std::size_t count, bool verify) {
  Bundle bundle("bundle in memory");
  bundle.open_archive(std::make_unique<MemorySource>(bytes, count), verify);
  return bundle;
}

void Bundle::open_archive(std::unique_ptr<ByteSource> source, bool verify) {
  source_ = std::move(source);
  archive_ = std::make_unique<Archive>(*source_, label_);
  const Member* listing = archive_->find(kManifest);
  if (listing == nullptr) {
    throw bad_bundle(label_ + ": file " + shown(kManifest) +
                     " is missing at the top of the .dedos file");
  }
  if (listing->size > kMaxManifest) {
    throw bad_bundle(label_ + ": " + kManifest + " has more bytes than it may");
  }
  manifest_ = Manifest::parse(as_text(archive_->read(*listing)), label_);
  for (const Member& member : archive_->members()) {
    // The engine cache is the runtime's own business.
    const bool cached = member.name.rfind(std::string(kEngines) + "/", 0) == 0;
    if (!cached && member.name != kManifest && manifest_.files.count(member.name) == 0) {
      throw bad_bundle(label_ + ": file " + shown(member.name) + " is not listed in " + kManifest +
                       "; export the bundle again");
    }
  }
  for (const auto& [name, unused] : manifest_.files) {
    const Member* member = archive_->find(name);
    if (member == nullptr) {
      throw bad_bundle(label_ + ": file " + shown(name) +
                       " is missing; copy the bundle again or export it again");
    }
    if (verify || member->size <= kSmallFile) verify_member(name);
  }
}

void Bundle::verify_member(const std::string& name) const {
  Sha256 hash;
  archive_->unpack(*archive_->find(name),
                   [&](const std::uint8_t* bytes, std::size_t count) { hash.add(bytes, count); });
  check_digest(name, hash.hex());
}

void Bundle::open_folder(const std::string& path, bool verify) {
  folder_ = path;
  const std::string listing = checked_file(path, kManifest, label_);
  const std::string file = label_ + ": file " + shown(kManifest);
  manifest_ =
      Manifest::parse(as_text(all_of(FileSource(listing, file), kMaxManifest, file)), label_);
  for (const auto& [name, unused] : manifest_.files) checked_file(path, name, label_);
  std::vector<std::string> names;
  try {
    list_files(path, "", names);
  } catch (const fs::filesystem_error& error) {
    throw bad_bundle(label_ + ": cannot be listed (" + error.code().message() + ")");
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name != kManifest && manifest_.files.count(name) == 0) {
      throw bad_bundle(label_ + ": file " + shown(name) + " is not listed in " + kManifest +
                       "; remove it or export the bundle again");
    }
  }
  for (const auto& [name, unused] : manifest_.files) {
    const std::string what = label_ + ": file " + shown(name);
    const FileSource source(checked_file(path, name, label_), what);
    if (verify || source.size() <= kSmallFile) check_digest(name, hash_of(source, what));
  }
}

void Bundle::check_digest(const std::string& name, const std::string& found) const {
  const std::string& expected = manifest_.files.at(name);
  if (found == expected || !kHashesCount) return;
  throw bad_bundle(label_ + ": file " + shown(name) +
                   " was changed or damaged: its SHA-256 begins " + "with " + found.substr(0, 12) +
                   ", not " + expected.substr(0, 12) + " as " + kManifest +
                   " says; export the bundle again");
}

Bytes Bundle::read(const std::string& name) const {
  if (manifest_.files.count(name) == 0) {
    throw bad_bundle(label_ + ": holds no file " + shown(name));
  }
  const std::string file = label_ + ": file " + shown(name);
  Bytes bytes;
  if (archive_ != nullptr) {
    const Member* member = archive_->find(name);
    if (member->size > kMaxRead) throw bad_bundle(file + " has more bytes than it may");
    bytes = archive_->read(*member);
  } else {
    bytes = all_of(FileSource(checked_file(folder_, name, label_), file), kMaxRead, file);
  }
  check_digest(name, sha256_hex(bytes.data(), bytes.size()));
  return bytes;
}

std::unique_ptr<Bundle::Place> Bundle::place_of_graph(const std::string& name) const {
  if (archive_ == nullptr) {
    return std::make_unique<Place>(checked_file(folder_, name, label_), "");
  }
  std::vector<std::string> beside;
  for (const auto& [other, unused] : manifest_.files) {
    if (other.compare(0, name.size() + 1, name + ".") == 0) beside.push_back(other);
  }
  if (beside.empty()) return nullptr;
  const char* root = std::getenv("TMPDIR");
  std::string folder =
      std::string(root != nullptr && *root ? root : "/tmp") + "/dedos-bundle-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) {
    throw bad_input(label_ + ": cannot be unpacked to " + shown(folder, 300) + " (" +
                    reason(errno) + "); set TMPDIR to a folder that can be written");
  }
  auto place = std::make_unique<Place>(folder + "/" + name, folder);
  beside.push_back(name);
  for (const std::string& file : beside) extract(file, folder);
  return place;
}

void Bundle::extract(const std::string& name, const std::string& folder) const {
  const std::string path = folder + "/" + name;
  std::FILE* file = std::fopen(path.c_str(), "wbx");
  bool written = file != nullptr;
  Sha256 hash;
  if (written) {
    struct Closing {
      std::FILE* file;
      bool& written;
      ~Closing() { written = std::fclose(file) == 0 && written; }
    } closing{file, written};
    archive_->unpack(*archive_->find(name), [&](const std::uint8_t* bytes, std::size_t count) {
      hash.add(bytes, count);
      written = written && std::fwrite(bytes, 1, count, file) == count;
    });
  }
  if (!written) {
    throw bad_input(label_ + ": cannot be unpacked to " + shown(folder, 300) + " (" +
                    reason(errno) + "); free some space there or set TMPDIR to another folder");
  }
  check_digest(name, hash.hex());
}

Bundle::Place::~Place() {
  std::error_code ignored;  // what cannot be removed stays in the temporary folder
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

}  // namespace dedos::lib
