// A bundle, a folder or a `.dedos` file, held against its manifest.
#pragma once

#include <memory>
#include <string>

#include "byte_source.h"
#include "manifest.h"
#include "zip.h"

namespace dedos::lib {

class Bundle {
 public:
  // verify: hash every file; else only those up to 1 MiB. Throws Error naming the first file or
  // field that is wrong, as Bundle.open of the Python package does.
  static Bundle open(const std::string& path, bool verify);

  // The same for an archive in memory, which outlives the bundle.
  static Bundle from_memory(const std::uint8_t* bytes, std::size_t count, bool verify);

  const Manifest& manifest() const { return manifest_; }
  const std::string& label() const { return label_; }

  // The content of a listed file: what is returned has the SHA-256 of the manifest, whatever
  // happens to the file meanwhile.
  Bytes read(const std::string& name) const;

  // Where a graph with its data beside it lies in a folder that ONNX Runtime can read; nothing for
  // a graph in an archive that is all in one file.
  class Place;
  std::unique_ptr<Place> place_of_graph(const std::string& name) const;

 private:
  explicit Bundle(std::string label) : label_(std::move(label)) {}
  void open_archive(std::unique_ptr<ByteSource> source, bool verify);
  void open_folder(const std::string& path, bool verify);
  void verify_member(const std::string& name) const;
  void check_digest(const std::string& name, const std::string& found) const;
  void extract(const std::string& name, const std::string& folder) const;

  std::string label_;
  std::string folder_;                  // "" for an archive
  std::unique_ptr<ByteSource> source_;  // of an archive
  std::unique_ptr<Archive> archive_;
  Manifest manifest_;
};

// A graph's file. One that was unpacked for it goes with it; ONNX Runtime, which maps what lies
// beside a graph, needs neither any more once it has opened it.
class Bundle::Place {
 public:
  Place(std::string path, std::string temporary)
      : path_(std::move(path)), temporary_(std::move(temporary)) {}
  ~Place();
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::string temporary_;
};

}  // namespace dedos::lib
