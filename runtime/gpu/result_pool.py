"""Where results of a device come to lie: page-locked memory that their receiver owns.

A block is lent with a result and comes back when no array of it is left, whoever held one and
whichever thread let go of it; a copy of every label map, from page-locked into ordinary memory, is
what that saves.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.cuda import MIB, Cuda, PinnedArray
from dedos_deploy.runtime.segmentation import LabelMap

MOST_CELLS = 65536
"""Ids that are counted: every class id of a session and one for unlabelled pixels."""

MOST_BYTES = 128 * MIB
"""Of page-locked memory that receivers may hold at a time: 20 results of 1080x1920, 5 of 2160x3840."""

LEAST_LENT = 2
"""Blocks that are lent however large they are: the result at hand and the next."""

MARK_BYTES = 8
"""Of the mark of the first broken score, before the counts."""

_ALIGNMENT = 256
"""Of every part of a block, so that warps write whole sectors."""

_NOT_BROKEN = 2**64 - 1


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class ResultLayout:
    """Where the parts of one result lie in its block: mark and counts, ids, confidence."""

    size_hw: tuple[int, int]
    """Of the frame."""

    cells: int
    """Counts: one per class id, and one of unlabelled pixels."""

    wide: bool
    """Whether ids take 16 bits."""

    @property
    def tally_bytes(self) -> int:
        """Of mark and counts, which lie at the beginning."""
        return MARK_BYTES + 4 * self.cells

    @property
    def ids(self) -> int:
        """Offset of the ids."""
        return _padded(self.tally_bytes)

    @property
    def confidence(self) -> int:
        """Offset of the confidence."""
        return self.ids + _padded(self._pixels * (2 if self.wide else 1))

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self.confidence + self._pixels

    @property
    def _pixels(self) -> int:
        return self.size_hw[0] * self.size_hw[1]

    @staticmethod
    def room_for(pixels: int) -> int:
        """Return the bytes that hold a result of so many pixels under any vocabulary."""
        return ResultLayout((1, pixels), MOST_CELLS, wide=True).size

    def broken(self, block: NDArray[np.uint8]) -> int | None:
        """Return the index of the first score that is no number, None without one."""
        mark = int(block[:MARK_BYTES].view(np.uint64)[0])
        return None if mark == _NOT_BROKEN else mark

    def counts_in(self, block: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Return the counts, uint32 [cells], as a view."""
        return block[MARK_BYTES : self.tally_bytes].view(np.uint32)

    def maps_in(self, block: NDArray[np.uint8]) -> tuple[LabelMap, NDArray[np.uint8]]:
        """Return label map and confidence, [H, W], as views."""
        ids = block[self.ids : self.confidence].view(np.uint16 if self.wide else np.uint8)
        confidence = block[self.confidence : self.size]
        return ids[: self._pixels].reshape(self.size_hw), confidence.reshape(self.size_hw)


class ResultBlock:
    """One block, until this and the last array over its `bytes` are gone."""

    def __init__(self, memory: PinnedArray, *, lends: bool, mapped: bool) -> None:
        """lends: whether arrays over it may be given away, else they are copied."""
        # Every array over it holds on to this object, so its end is the end of the last one.
        self._owner = (ctypes.c_uint8 * memory.size).from_address(memory.pointer)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._owner, np.uint8)
        self.lends = lends
        self.device_pointer = memory.device_pointer if mapped else 0

    def at_end(self, pool: ResultPool, memory: PinnedArray) -> None:
        """Let the pool have the memory back when the last array is gone."""
        back = weakref.finalize(self._owner, pool._take_back, memory, self.lends)
        # The driver frees what a process still has at its end, and may be gone by then.
        back.atexit = False


class ResultPool(Closing):
    """Page-locked blocks of one size, at most MOST_BYTES of them lent.

    With all of them out, results lie in one that is not lent, for their receiver to copy. For one
    thread at a time; blocks come back from any. Closed, it frees what is not lent at once and every
    other block when it comes back, so results outlive whatever made them.
    """

    def __init__(self, cuda: Cuda, *, mapped: bool) -> None:
        """mapped: whether kernels write into the blocks themselves."""
        self._cuda = cuda
        self._mapped = mapped
        self._size = 0
        self._lendable_bytes = 0
        # Blocks come back in the middle of anything, by the garbage collector: no lock can be
        # taken there, and a deque needs none.
        self._idle: deque[PinnedArray] = deque()
        self._spare: deque[PinnedArray] = deque()
        self._closed = False

    def fit(self, pixels: int) -> None:
        """Make blocks for results of up to so many pixels from now on, if they are smaller."""
        self.fit_bytes(ResultLayout.room_for(pixels))

    def fit_bytes(self, size: int) -> None:
        """Make blocks of at least `size` bytes from now on."""
        self._size = max(self._size, size)

    def take(self) -> ResultBlock:
        """Return a block. Raises EngineError when a new one is needed and there is no room."""
        memory = self._fitting(self._idle)
        lends = memory is not None or self._may_lend_more()
        if memory is None and not lends:
            memory = self._fitting(self._spare)
        if memory is None:
            memory = self._new()
            self._lendable_bytes += memory.size if lends else 0
        block = ResultBlock(memory, lends=lends, mapped=self._mapped)
        block.at_end(self, memory)
        return block

    def close(self) -> None:
        """Free what is not lent; the rest frees itself. May be called twice."""
        self._closed = True
        self._free_returned()

    def _may_lend_more(self) -> bool:
        most = max(MOST_BYTES, LEAST_LENT * self._size)
        return self._lendable_bytes + self._size <= most

    def _fitting(self, shelf: deque[PinnedArray]) -> PinnedArray | None:
        while shelf:
            memory = shelf.pop()
            if memory.size >= self._size:
                return memory
            self._lendable_bytes -= memory.size if shelf is self._idle else 0
            memory.close()
        return None

    def _new(self) -> PinnedArray:
        return self._cuda.pinned((self._size,), np.uint8, "a result", mapped=self._mapped)

    def _take_back(self, memory: PinnedArray, lends: bool) -> None:
        (self._idle if lends else self._spare).append(memory)
        if self._closed:
            self._free_returned()

    def _free_returned(self) -> None:
        """Free what has come back; each block once, also when two threads are here."""
        for shelf in (self._idle, self._spare):
            with suppress(IndexError):
                while True:
                    self._free(shelf.pop())

    def _free(self, memory: PinnedArray) -> None:
        # Of a GPU that was lost nothing can be released any more; the driver did so.
        with suppress(EngineError), self._cuda.borrowed_thread():
            memory.close()
