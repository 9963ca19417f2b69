// Compiles a loop once per x86-64 level and picks the best at load time, so that one portable wheel
// uses AVX2 or AVX-512 (and their fma) where the processor has them. Elsewhere the baseline is
// used: aarch64 always has fma and vectors of 128 bits.
#pragma once

#include <cstdlib>  // defines __GLIBC__, whose loader can choose at load time

// Not for the thread sanitizer: the loader chooses before that has begun, and what chooses is
// watched.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_THREAD__) && \
    ((defined(__clang__) && __clang_major__ >= 17) || (!defined(__clang__) && __GNUC__ >= 12))
#define DEDOS_MULTIVERSION \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DEDOS_MULTIVERSION
#endif
