#include "bind_parent.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "arguments.h"

namespace dedos {
namespace {

using nb::literals::operator""_a;
using Seconds = std::chrono::seconds;

constexpr std::int64_t kLongestGrace = 3600;

// Signals go to the threads that expect them, and to none that is begun meanwhile.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

// Takes no lock of Python's, so that it also ends a process in which one is held for ever.
void outlive(pid_t parent, Seconds grace) {
  while (getppid() == parent) std::this_thread::sleep_for(Seconds(1));
  std::this_thread::sleep_for(grace);
  _exit(EXIT_FAILURE);
}

void end_with_parent(nb::handle given_grace) {
  const std::int64_t grace = integer_from("grace_s", given_grace);
  if (grace < 0 || grace > kLongestGrace) {
    throw std::invalid_argument("grace_s is " + std::to_string(grace) + ", but 0 to " +
                                std::to_string(kLongestGrace) + " seconds can be waited");
  }
  // For as long as the process: nothing waits for the thread, which never ends before it.
  static std::once_flag begun;
  std::call_once(begun, [grace] {
    const NoSignals held;
    std::thread(outlive, getppid(), Seconds(grace)).detach();
  });
}

}  // namespace

void bind_parent(nb::module_& module) {
  module.def("end_with_parent", &end_with_parent, "grace_s"_a.none());
}

}  // namespace dedos
