"""The newest of what each camera sent, for one thread that takes turns; nothing here needs ROS."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Newest(Generic[ItemT]):
    """A place per camera: a newer frame takes that of one that nobody has fetched.

    Cameras are served in the order in which they came to have a frame, so none starves another.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[str, ItemT] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, camera: str, item: ItemT) -> bool:
        """Leave a frame and return whether it replaced one that was not fetched."""
        with self._changed:
            if self._closed:
                return False
            replaced = camera in self._items
            self._items[camera] = item
            self._changed.notify()
            return replaced

    def take(self) -> tuple[str, ItemT] | None:
        """Return camera and frame whose turn it is, waiting for one; None after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            return None if self._closed else self._items.popitem(last=False)

    def close(self) -> None:
        """Give up what is left and end all waiting."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
