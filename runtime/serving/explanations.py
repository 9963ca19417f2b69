"""Why a pixel is what it is: cameras keep the scores of a frame while somebody asks, and only then."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from dedos_deploy.errors import UnfinishedError
from dedos_deploy.runtime.explaining import Candidate
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter_view import SegmenterView
from dedos_deploy.runtime.serving.hub import Hub

WAIT_S = 10.0
"""How long a frame with its scores is waited for."""


class Explanations:
    """Of the newest results of all cameras; a name is always that of one of them."""

    def __init__(
        self, hub: Hub, views: Mapping[str, SegmenterView], repeat: Callable[[str], None]
    ) -> None:
        """repeat: has a camera that stands still label its picture once more, as far as one does."""
        self._hub = hub
        self._views = views
        self._repeat = repeat
        self._asking: Counter[str] = Counter()
        self._switching = threading.Lock()

    def top(self, name: str, x: float, y: float, n: int) -> tuple[Candidate, ...]:
        """Return what competed for a pixel of a camera's next frame, as `Segmentation.top`.

        x, y: in [0, 1), parts of width and height. Raises UnfinishedError when none comes in WAIT_S.
        """
        explained = self.frame(name, wait_s=WAIT_S)
        if explained is None:
            raise UnfinishedError(
                f"camera {name!r} gave no frame for {WAIT_S:g} s that could be explained; ask again "
                "when it does"
            )
        return top_at(explained[1], x, y, n)

    def frame(self, name: str, *, wait_s: float) -> tuple[Frame, Segmentation] | None:
        """Return a camera's next frame and its result with the scores, None when none comes in time."""
        arrived, deadline_s = threading.Event(), time.monotonic() + wait_s
        with self._scores_kept(name), self._hub.telling(name, arrived.set):
            newest = self._hub.newest_frame(name)
            if newest is None or newest[1].evidence is None:
                self._repeat(name)
            while newest is None or newest[1].evidence is None:
                if not arrived.wait(deadline_s - time.monotonic()):
                    return None
                arrived.clear()
                newest = self._hub.newest_frame(name)
        return newest

    @contextlib.contextmanager
    def _scores_kept(self, name: str) -> Iterator[None]:
        self._ask(name, 1)
        try:
            yield
        finally:
            self._ask(name, -1)

    def _ask(self, name: str, more: int) -> None:
        with self._switching:
            self._asking[name] += more
            self._views[name].explain = self._asking[name] > 0


def top_at(result: Segmentation, x: float, y: float, n: int) -> tuple[Candidate, ...]:
    """Return what competed for a place; x, y: in [0, 1), parts of width and height."""
    height, width = result.label_map.shape
    return result.top(int(y * height), int(x * width), n)


def why(candidates: Sequence[Candidate]) -> str:
    """Return in one sentence what decided a pixel; candidates: of `Segmentation.top`."""
    (decider,) = (one for one in candidates if one.decided)
    if decider.kind == "negative":
        return (
            f"unlabelled, since “{decider.name}” scores most ({decider.score:.3f}), a word of the bundle that "
            "competes and was not asked for"
        )
    if decider.kind == "word":
        synonym = "" if decider.word == decider.name else f" as “{decider.word}”"
        needs = f", and needs {decider.threshold:.3f}" if decider.threshold > 0 else ""
        return f"“{decider.name}”, which scores most{synonym} ({decider.score:.3f}){needs}"
    best = next(one for one in candidates if one.kind in ("word", "negative"))
    return (
        f"unlabelled, since the best word, “{best.name}”, scores {best.score:.3f} and needs "
        f"{best.threshold:.3f}"
    )
