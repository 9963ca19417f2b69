// Stands in for the libraries behind the Python bindings of TensorRT, so that the bindings load and
// can be called. `vendor_modules.py` appends what they import.
//
// Every virtual function of every class returns the address of the one object. The last 32 bits of
// that are zero: read as a bool it is false, as an int 0, as a pointer the object. So each library
// that is made here hands out engines, contexts and builders that refuse everything. In the
// environment STUB_GIVES_NOTHING says to hand out none, STUB_NEGATIVE_FROM=n that from the n-th
// call on the address of another one is returned, which as an int is negative.

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

void* answer();

Object* make(unsigned long address) {
  for (void*& entry : table) entry = reinterpret_cast<void*>(&answer);
  void* const place = reinterpret_cast<void*>(address);
  void* const page = mmap(place, 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (page != place) std::abort();
  auto* const made = static_cast<Object*>(page);
  // Classes with other members between find it behind those, too.
  for (int index = 0; index < 16; ++index) (&made->implementation)[index] = made;
  made->table = table;
  return made;
}

Object* object() {
  static Object* const one = make(1ul << 44);
  return one;
}

void* answer() {
  static int calls = 0;
  const char* const first = std::getenv("STUB_NEGATIVE_FROM");
  if (first == nullptr || ++calls < std::atoi(first)) return object();
  static Object* const negative = make((1ul << 44) + (1ul << 31));
  return negative;
}

}  // namespace

#define ENTRY(name) \
  extern "C" void* name() { return std::getenv("STUB_GIVES_NOTHING") ? nullptr : object(); }
