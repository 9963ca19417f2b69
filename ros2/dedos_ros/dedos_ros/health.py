"""What a camera's frames came to, in numbers and one sentence; nothing here needs ROS."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass
class Health:
    """Counters of one camera, and what is wrong with each of its topics; for any thread."""

    received: int = 0
    labelled: int = 0
    replaced: int = 0
    """Frames that a newer one took the place of before they were labelled."""
    refused: int = 0
    clouds: int = 0
    latency_ms: float = 0.0
    """Of the last frame, in the engine and before and after it."""
    trust: float | None = None
    """Of the last frame, None where the bundle has no statistics."""
    doubt: str | None = None
    """Why the labels of the last frame are to be doubted, None where they are not."""
    _wrong: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, **added: int) -> None:
        """Add to counters by name."""
        with self._lock:
            for name, number in added.items():
                setattr(self, name, getattr(self, name) + number)

    def wrong(self, topic: str, sentence: str | None) -> bool:
        """Note what is wrong with a topic, None for nothing, and return whether that is news."""
        with self._lock:
            news = self._wrong.get(topic) != sentence
            if sentence is None:
                self._wrong.pop(topic, None)
            else:
                self._wrong[topic] = sentence
            return news

    def summary(self) -> tuple[Level, str]:
        """Return how it is, in one word and one sentence or more."""
        with self._lock:
            if self._wrong:
                return "error", "; ".join(
                    f"{topic}: {sentence}" for topic, sentence in self._wrong.items()
                )
            if not self.received:
                return "warning", "no image has come yet"
            if self.doubt is not None:
                return "warning", self.doubt
            return "ok", "labels images"

    def numbers(self) -> dict[str, str]:
        """Return the counters as text, by name."""
        with self._lock:
            counted = {
                name: str(getattr(self, name))
                for name in ("received", "labelled", "replaced", "refused", "clouds")
            }
            counted["latency_ms"] = f"{self.latency_ms:.1f}"
            return counted if self.trust is None else counted | {"trust": f"{self.trust:.2f}"}
