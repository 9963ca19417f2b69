// Stands in for the libraries behind the Python bindings of TensorRT, so that the bindings load and
// can be called. `vendor_modules.py` appends what they import.
//
// There is one object, and every virtual function of every class returns its address. The last 32
// bits of that are zero: read as a bool it is false, as an int 0, as a pointer the object. So each
// library that is made here hands out engines, contexts and builders that refuse everything, or
// with STUB_GIVES_NOTHING in the environment none at all.

#include <sys/mman.h>

#include <cstdlib>

namespace {

struct Object {
  void** table;
  // In TensorRT's classes the implementation, of which the functions above it ask everything.
  Object* implementation;
};

constexpr int functions = 1024;
void* table[functions];

Object* object();

void* answer() { return object(); }

Object* make() {
  for (void*& entry : table) entry = reinterpret_cast<void*>(&answer);
  void* const place = reinterpret_cast<void*>(1ul << 44);
  void* const page = mmap(place, 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  auto* const made = static_cast<Object*>(page == MAP_FAILED ? nullptr : page);
  // Classes with other members between find it behind those, too.
  for (int index = 0; index < 16; ++index) (&made->implementation)[index] = made;
  made->table = table;
  return made;
}

Object* object() {
  static Object* const one = make();
  return one;
}

}  // namespace

#define ENTRY(name) \
  extern "C" void* name() { return std::getenv("STUB_GIVES_NOTHING") ? nullptr : object(); }
