// Statistics of learned frames, as dedos_deploy/trust.py writes them. No trust is given here; a
// bundle is only held against them, as in Python.
#pragma once

#include "bundle.h"

namespace dedos::lib {

// Throws Error (bad bundle, or unsupported version) for statistics of another graph than the
// bundle's, and for a file that says nothing of its blocks of features.
void check_trust(const Bundle& bundle);

}  // namespace dedos::lib
