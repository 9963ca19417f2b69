#include "cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "errors.h"

namespace dedos::lib {

namespace {

int bound_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The cores' worth of time that a control group allows, 0 for no limit.
double quota_of(const std::string& folder, bool unified) {
  double quota = 0.0, period = 0.0;
  if (unified) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max", for none, is no number
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0.0 && period > 0.0 ? quota / period : 0.0;
}

// The least of a group and those that it lies in; a container sees its own group as the top.
void bound_by_group(const std::string& top, std::string group, bool unified, double& least) {
  if (!std::ifstream(top + group + "/cgroup.procs")) group = "/";
  for (;;) {
    const double quota = quota_of(top + group, unified);
    if (quota > 0.0) least = std::min(least, quota);
    const std::size_t slash = group.rfind('/');
    if (slash == std::string::npos || group.empty()) return;
    group.erase(slash);
  }
}

}  // namespace

int usable_cores() {
  double least = std::max(1, bound_cores());
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    std::istringstream parts(line);
    std::string number, controllers, group;
    std::getline(parts, number, ':');
    std::getline(parts, controllers, ':');
    std::getline(parts, group);
    if (controllers.empty()) bound_by_group("/sys/fs/cgroup", group, true, least);
    if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      bound_by_group("/sys/fs/cgroup/cpu", group, false, least);
    }
  }
  return std::max(1, static_cast<int>(std::ceil(least)));
}

int usable_threads(int most) {
  if (most < 0) {
    throw bad_input("threads must be at least 1, not " + std::to_string(most) + "; give 0 for all");
  }
  return most == 0 ? usable_cores() : std::min(most, usable_cores());
}

}  // namespace dedos::lib
