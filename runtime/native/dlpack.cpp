// The structures are those of DLPack 1.1 (https://github.com/dmlc/dlpack, Apache-2.0), the
// capsules' names those of its Python specification: whoever takes a capsule renames it, and then
// calls its deleter once.
#include "dlpack.h"

#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

struct DlTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t ndim;
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null for C order
  std::uint64_t byte_offset;
};

struct Unversioned {
  static constexpr const char* kName = "dltensor";
  static constexpr const char* kUsed = "used_dltensor";
  DlTensor tensor;
  void* context;
  void (*deleter)(Unversioned*);

  std::uint64_t flags() const { return 0; }
};

struct Versioned {
  static constexpr const char* kName = "dltensor_versioned";
  static constexpr const char* kUsed = "used_dltensor_versioned";
  std::uint32_t major;
  std::uint32_t minor;
  void* context;
  void (*deleter)(Versioned*);
  std::uint64_t bits;
  DlTensor tensor;

  std::uint64_t flags() const { return bits; }
};

constexpr std::uint32_t kMajor = 1;
constexpr std::uint64_t kReadOnly = 1;
constexpr std::uint8_t kUnsigned = 1;
constexpr const char* kHeld = "dedos_deploy.held_tensor";

template <typename Managed>
void let_go(PyObject* capsule) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kHeld));
  if (managed->deleter != nullptr) managed->deleter(managed);
}

// Takes the tensor out of its capsule into one that calls the deleter when it dies.
template <typename Managed>
nb::object taken(nb::handle capsule) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), Managed::kName));
  nb::object held = nb::steal(PyCapsule_New(managed, kHeld, &let_go<Managed>));
  // Nothing was taken yet if this fails, and the capsule still calls the deleter itself.
  if (!held.is_valid()) throw nb::python_error();
  if (PyCapsule_SetName(capsule.ptr(), Managed::kUsed) != 0) {
    PyCapsule_SetDestructor(held.ptr(), nullptr);
    throw nb::python_error();
  }
  return held;
}

template <typename Managed>
nb::tuple described(nb::handle capsule) {
  const nb::object held = taken<Managed>(capsule);
  const auto* managed = static_cast<const Managed*>(PyCapsule_GetPointer(held.ptr(), kHeld));
  const DlTensor& tensor = managed->tensor;
  const std::int64_t item = (std::int64_t{tensor.bits} * tensor.lanes + 7) / 8;
  nb::list shape, strides;
  std::vector<std::int64_t> steps(static_cast<std::size_t>(tensor.ndim));
  std::int64_t step = 1;
  for (std::int32_t i = tensor.ndim; i-- > 0;) {
    steps[i] = tensor.strides != nullptr ? tensor.strides[i] : step;
    step *= tensor.shape[i];
  }
  for (std::int32_t i = 0; i < tensor.ndim; ++i) {
    shape.append(tensor.shape[i]);
    strides.append(steps[i] * item);
  }
  const bool plain_byte = tensor.code == kUnsigned && tensor.bits == 8 && tensor.lanes == 1;
  const std::uint64_t address = reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset;
  return nb::make_tuple(address, nb::tuple(shape), nb::tuple(strides), plain_byte,
                        tensor.device_type, tensor.device_id, (managed->flags() & kReadOnly) != 0,
                        held);
}

nb::tuple take(nb::handle capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), Unversioned::kName)) return described<Unversioned>(capsule);
  if (!PyCapsule_IsValid(capsule.ptr(), Versioned::kName)) {
    throw nb::type_error("no DLPack capsule, or one that was taken before; ask for a new one");
  }
  const auto* managed =
      static_cast<const Versioned*>(PyCapsule_GetPointer(capsule.ptr(), Versioned::kName));
  if (managed->major != kMajor) {
    throw std::invalid_argument("the DLPack capsule has version " + std::to_string(managed->major) +
                                ", but 1 is understood");
  }
  return described<Versioned>(capsule);
}

// What a capsule given out owns: shape, strides and a reference to the owner of the memory.
template <typename Managed>
struct Given {
  Managed managed;
  std::vector<std::int64_t> shape, strides;
  PyObject* owner;
};

template <typename Managed>
void release(Managed* managed) {
  auto* given = static_cast<Given<Managed>*>(managed->context);
  // Consumers call this from any thread, and some when the interpreter is gone already.
  if (Py_IsInitialized()) {
    const nb::gil_scoped_acquire held;
    Py_DECREF(given->owner);
  }
  delete given;
}

template <typename Managed>
void drop_unused(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, Managed::kName)) return;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::kName));
  managed->deleter(managed);
}

void set_version(Unversioned&) {}

void set_version(Versioned& managed) {
  managed.major = kMajor;
  managed.minor = 0;
  managed.bits = 0;
}

template <typename Managed>
nb::object given_out(nb::handle owner, std::uint64_t address,
                     const std::vector<std::int64_t>& shape, int item, std::int32_t device_type,
                     std::int32_t device_id) {
  auto given = std::make_unique<Given<Managed>>();
  given->shape = shape;
  given->strides.resize(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    given->strides[i] = step;
    step *= shape[i];
  }
  set_version(given->managed);
  given->managed.tensor = {reinterpret_cast<void*>(address),
                           device_type,
                           device_id,
                           static_cast<std::int32_t>(shape.size()),
                           kUnsigned,
                           static_cast<std::uint8_t>(8 * item),
                           1,
                           given->shape.data(),
                           given->strides.data(),
                           0};
  given->managed.context = given.get();
  given->managed.deleter = &release<Managed>;
  given->owner = owner.ptr();
  nb::object capsule =
      nb::steal(PyCapsule_New(&given->managed, Managed::kName, &drop_unused<Managed>));
  if (!capsule.is_valid()) throw nb::python_error();
  Py_INCREF(owner.ptr());
  given.release();
  return capsule;
}

nb::object give(nb::handle owner, std::uint64_t address, const std::vector<std::int64_t>& shape,
                int item, std::int32_t device_type, std::int32_t device_id, bool versioned) {
  return versioned ? given_out<Versioned>(owner, address, shape, item, device_type, device_id)
                   : given_out<Unversioned>(owner, address, shape, item, device_type, device_id);
}

}  // namespace

void dedos::bind_dlpack(nb::module_& module) {
  module.def("dlpack_take", &take, "capsule"_a);
  module.def("dlpack_give", &give, "owner"_a, "address"_a, "shape"_a, "item"_a, "device_type"_a,
             "device_id"_a, "versioned"_a);
}
