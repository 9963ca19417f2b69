"""Log lines that anybody outside can cause: a few of each, and then their number."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

SHOWN = 3
"""Lines of one kind that are shown within `SPAN_S`."""
SPAN_S = 60.0
MOST_KINDS = 256
"""Kinds that are counted at a time; the oldest is forgotten."""


@dataclass
class _Kind:
    logger: str
    level: int
    text: str
    since_s: float
    shown: int = 0
    hidden: int = 0


class Repeats(logging.Filter):
    """Lets a few records of a kind through, then says how many more there were.

    Of a kind are those with one message before its values are filled in. Their number follows with
    the next record of the kind after a minute, or with `flush`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown."""
        if hasattr(record, "more"):
            return True
        is_shown, over = self._count(record)
        if over is not None:
            self._say_more(over)
        return is_shown

    def flush(self) -> None:
        """Say what has been held back, and begin anew."""
        with self._lock:
            kinds = list(self._kinds.values())
            self._kinds.clear()
        for kind in kinds:
            self._say_more(kind)

    def _count(self, record: logging.LogRecord) -> tuple[bool, _Kind | None]:
        """Return whether a record is shown, and a kind whose time is over."""
        key, now_s = (record.name, _first_line(str(record.msg))), self._clock()
        over: _Kind | None = None
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None or now_s - kind.since_s >= SPAN_S:
                over = self._kinds.pop(key, None)
                kind = _Kind(record.name, record.levelno, _first_line(record.getMessage()), now_s)
                self._kinds[key] = kind
            if len(self._kinds) > MOST_KINDS:
                _, over = self._kinds.popitem(last=False)
            is_shown = kind.shown < SHOWN
            kind.shown += is_shown
            kind.hidden += not is_shown
        return is_shown, over

    def _say_more(self, kind: _Kind) -> None:
        if kind.hidden:
            text, extra = "… %s more like this: %s", {"more": kind.hidden}
            logger = logging.getLogger(kind.logger)
            logger.log(kind.level, text, f"{kind.hidden:,}", kind.text, extra=extra)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
