"""What libdedos keeps of the memory that it needed for a while."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest
from bindings import Library

from dedos_deploy.bench.memory import memory_mb


def test_new_words_of_another_thread_leave_no_memory_of_the_text_tower(
    library: Library, demo: Path
) -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        pytest.skip("needs glibc")
    with library.open(demo, "road", threads=1) as segmenter:
        trim(0)
        encoding = threading.Thread(target=segmenter.set_classes, args=("qwzx blorg",))
        encoding.start()
        encoding.join()
        kept = memory_mb("VmRSS")
        trim(0)
        # The tower takes 25 MB while it is open; glibc would keep it for the thread that closed it.
        assert kept - memory_mb("VmRSS") < 4
