"""DLPack capsules: what other libraries give is read where it lies, and every owner is let go once."""

from __future__ import annotations

import ctypes
import gc
import importlib
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dedos_deploy import _native

CPU = 1


class DlTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Unversioned(ctypes.Structure):
    _fields_ = (("tensor", DlTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DlTensor),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Producer:
    """A tensor on a device of its own, with a deleter that counts."""

    def __init__(
        self,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        *,
        version: int | None = None,
        flags: int = 0,
        bits: int = 8,
    ) -> None:
        self.deleted = 0
        self._deleter = Deleter(self._delete)
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        pointer = ctypes.POINTER(ctypes.c_int64)
        tensor = DlTensor(
            0x7000,
            2,
            5,
            len(shape),
            1,
            bits,
            1,
            ctypes.cast(self._shape, pointer),
            pointer() if self._strides is None else ctypes.cast(self._strides, pointer),
            0x10,
        )
        call = ctypes.cast(self._deleter, ctypes.c_void_p)
        if version is None:
            self._managed: Any = Unversioned(tensor, None, call)
            self._name = b"dltensor"
        else:
            self._managed = Versioned(version, 1, None, call, flags, tensor)
            self._name = b"dltensor_versioned"
        self.capsule = new_capsule(ctypes.addressof(self._managed), self._name, None)

    def _delete(self, address: int | None) -> None:
        assert address == ctypes.addressof(self._managed)
        self.deleted += 1


@pytest.mark.parametrize("version", [None, 1])
def test_a_tensor_is_described_and_let_go_once(version: int | None) -> None:
    producer = Producer((4, 6, 3), (40, 4, 1), version=version, flags=1)
    address, shape, strides, is_bytes, *device, read_only, held = _native.dlpack_take(
        producer.capsule
    )
    assert (address, shape, strides, is_bytes) == (0x7010, (4, 6, 3), (40, 4, 1), True)
    assert device == [2, 5] and read_only is (version == 1)
    with pytest.raises(TypeError, match="taken before; ask for a new one"):
        _native.dlpack_take(producer.capsule)
    producer.capsule = None
    gc.collect()
    assert producer.deleted == 0
    del held
    assert producer.deleted == 1


def test_no_strides_mean_c_order_and_wide_items_wide_steps() -> None:
    described = _native.dlpack_take(Producer((4, 6, 3), bits=16).capsule)
    assert described[2] == (36, 6, 2) and described[3] is False


def test_an_unknown_version_keeps_its_tensor() -> None:
    producer = Producer((4,), version=2)
    with pytest.raises(ValueError, match="has version 2, but 1 is understood"):
        _native.dlpack_take(producer.capsule)
    assert producer.deleted == 0
    with pytest.raises(TypeError, match="no DLPack capsule"):
        _native.dlpack_take("a tensor")


class Owner:
    """Memory that others read."""

    def __init__(self, dtype: Any = np.uint8) -> None:
        self.array = np.arange(24, dtype=dtype).reshape(4, 6)

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, **_: Any) -> Any:
        item = self.array.itemsize
        address = self.array.ctypes.data
        versioned = max_version is not None
        return _native.dlpack_give(self, address, (4, 6), item, CPU, 0, versioned)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_others_read_in_place_and_keep_the_owner(library: str, dtype: Any) -> None:
    reader = importlib.import_module(library).from_dlpack
    owner = Owner(dtype)
    gone = weakref.ref(owner)
    address = owner.array.ctypes.data
    seen = reader(owner)
    del owner
    gc.collect()
    assert gone() is not None
    values = np.asarray(seen)
    assert values.ctypes.data == address and values.dtype == dtype
    np.testing.assert_array_equal(values.ravel(), np.arange(24))
    del seen, values
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_that_nobody_took_lets_go(versioned: bool) -> None:
    owner = Owner()
    gone = weakref.ref(owner)
    capsule = _native.dlpack_give(owner, owner.array.ctypes.data, (4, 6), 1, CPU, 0, versioned)
    del owner
    assert gone() is not None
    held = _native.dlpack_take(capsule)
    del capsule
    assert gone() is not None and held[1:3] == ((4, 6), (6, 1))
    del held
    assert gone() is None
    other = Owner()
    gone = weakref.ref(other)
    capsule = _native.dlpack_give(other, 0, (4,), 1, CPU, 0, versioned)
    del other, capsule
    assert gone() is None
