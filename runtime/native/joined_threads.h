// Threads that are waited for whatever happens.
#pragma once

#include <thread>
#include <vector>

namespace dedos {

struct JoinedThreads {
  std::vector<std::thread> threads;
  ~JoinedThreads() {
    for (std::thread& thread : threads) thread.join();
  }
};

}  // namespace dedos
