// SHA-256 (FIPS 180-4), in pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dedos::lib {

class Sha256 {
 public:
  void add(const void* bytes, std::size_t count);

  // 64 hexadecimal digits of all that was added; call it once.
  std::string hex();

 private:
  void mix(const std::uint8_t* block);

  std::uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::uint8_t block_[64] = {};
  std::uint64_t total_ = 0;
};

std::string sha256_hex(const void* bytes, std::size_t count);

}  // namespace dedos::lib
