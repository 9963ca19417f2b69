// How many CPU threads to start, counted as dedos_deploy/threads.py does.
#pragma once

namespace dedos::lib {

// The cores that this process is bound to, and no more than its control groups allow.
int usable_cores();

// At most `most` of them; 0: all. Throws Error (bad input) for a negative number.
int usable_threads(int most);

}  // namespace dedos::lib
