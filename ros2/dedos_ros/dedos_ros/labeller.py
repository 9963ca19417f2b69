"""The thread that labels the frames of all cameras, one after another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dedos_ros.newest import Newest

JOIN_S = 30.0
"""Longer than any frame takes."""


class Labeller:
    """Runs `label(camera, message)` for the newest message of each camera in turn."""

    def __init__(self, label: Callable[[str, Any], None]) -> None:
        self._label = label
        self._newest: Newest[Any] = Newest()
        self.failure: BaseException | None = None
        """What ended the thread, if not `stop`."""
        self._thread = threading.Thread(target=self._run, name="dedos-labeller", daemon=True)
        self._thread.start()

    def put(self, camera: str, message: Any) -> bool:
        """Leave a message and return whether it replaced one that was not yet labelled."""
        return self._newest.put(camera, message)

    def stop(self) -> None:
        """End the thread after the frame that it is at."""
        self._newest.close()
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            raise RuntimeError(f"a frame has not been labelled within {JOIN_S:g} s")

    def _run(self) -> None:
        try:
            while (taken := self._newest.take()) is not None:
                self._label(*taken)
        except BaseException as error:  # noqa: BLE001  (handed to the node, which raises it)
            self.failure = error
            self._newest.close()
