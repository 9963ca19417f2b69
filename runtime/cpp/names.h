// Names of files inside a bundle, and its limits: those of dedos_deploy/bundle/_names.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dedos::lib {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kModel = "model.onnx";
constexpr const char* kTextEncoder = "text_encoder.onnx";
constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kTrust = "trust.safetensors";
constexpr const char* kEngines = "engines";
constexpr std::size_t kMaxFiles = 4096;
constexpr std::size_t kMaxName = 200;
constexpr std::uint64_t kMaxManifest = 8u << 20;

// Letters, digits, `_.+-`, parts split by `/` that begin with none of `.+-`.
bool is_safe_name(const std::string& name);
bool is_sha256(const std::string& text);
bool is_vocabulary_name(const std::string& name);
std::string vocabulary_file(const std::string& name);
bool is_curves_file(const std::string& name);

// With small letters of ASCII in place of large ones.
std::string lower(std::string text);

// What keeps the names from standing beside each other, "" if nothing does: two that differ in case
// alone, or one that is the folder of another.
std::string clash(const std::vector<std::string>& names);

}  // namespace dedos::lib
