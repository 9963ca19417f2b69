"""What requests may change and ask of running cameras: words, colours, recordings, numbers."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.runtime.flow import CameraReport, Run
from dedos_deploy.runtime.flow.stages import STALL_S, Call
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.learned_words import examples_behind
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.segmenter_view import SegmenterView
from dedos_deploy.runtime.serving.collecting import CollectFolder
from dedos_deploy.runtime.serving.decoder import MOST_SENT_PIXELS, PictureDecoder
from dedos_deploy.runtime.serving.drawings import WORDS_S, Drawings, one_word
from dedos_deploy.runtime.serving.explanations import Explanations
from dedos_deploy.runtime.serving.hub import Hub, WordColours
from dedos_deploy.runtime.serving.recordings import Recordings
from dedos_deploy.runtime.serving.state_file import Chosen, StateFile
from dedos_deploy.runtime.sinks.palette import colour_bgr, css_colour
from dedos_deploy.runtime.sources.playback import Playback
from dedos_deploy.spec import Background
from dedos_deploy.trust import doubt_of
from dedos_deploy.vocabulary import WORDS_PER_REQUEST, Vocabulary, parse_vocabulary

log = logging.getLogger(__package__)

SpelledOut = Callable[[Sequence[str]], list[str]]

COLOUR = "^#[0-9a-fA-F]{6}$"
"""A colour as it is sent."""


class Controls(Closing):
    """Of all cameras of a run; `hub` has what they show, `recordings` what is kept of it, `drawings`
    what is made of what somebody draws on it, and `explanations` tells why it is labelled so."""

    def __init__(
        self,
        segmenter: Segmenter,
        views: Mapping[str, SegmenterView],
        *,
        record_to: Path | None = None,
        collect_to: Path | None = None,
        cannot_learn: str | None = None,
        background: Background = "threshold",
        state: StateFile | None = None,
        playbacks: Mapping[str, Playback] | None = None,
        spelled_out: SpelledOut = lambda words: [],
    ) -> None:
        """record_to: an existing folder for recordings that are asked for, None to refuse them;
        collect_to: a label folder, made where there is none, for frames that are put right;
        cannot_learn: what keeps words from being learned from examples, to be shown;
        background: what the segmenter leaves unlabelled, to be shown; state: has the colours to begin
        with, and keeps what is changed; playbacks: of those that can be paused and moved;
        spelled_out: tells words that the text tower may not know. Raises BadInputError."""
        self._background = background
        self.recordings = Recordings(record_to)
        kept = {} if state is None else state.chosen(views)
        self._colours: dict[str, WordColours] = {
            name: kept[name].colours if name in kept else {} for name in views
        }
        self._state = state
        self._spelled_out = spelled_out
        self._playbacks = dict(playbacks or {})
        self._choosing = threading.Lock()
        self.hub = Hub(views, self._colours)
        self._decoder = PictureDecoder(most_pixels=MOST_SENT_PIXELS)
        self._segmenter = segmenter
        self._views = dict(views)
        self._cannot_learn = cannot_learn
        self._folder = None if collect_to is None else CollectFolder(collect_to)
        self.explanations = Explanations(self.hub, self._views, self._repeat)
        self.drawings = Drawings(
            self.hub,
            self._views,
            self.explanations,
            changed=self._words_changed,
            folder=self._folder,
        )
        self._run: Run | None = None
        self._imaging = threading.Lock()

    def watch(self, run: Run) -> None:
        """Show the results and the numbers of this run, which has not begun yet."""
        self._run = run
        run.on_result = self._on_result

    def _on_result(self, name: str, frame: Frame, result: Segmentation) -> None:
        self.hub.on_result(name, frame, result)
        self.recordings.put(name, frame, result)

    def close(self) -> None:
        """End all recordings, and the processes that decode pictures."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._decoder.close)
            if self._folder is not None:
                closing.callback(self._folder.close)
            closing.callback(self.recordings.close)

    def view(self, name: str) -> SegmenterView:
        """Return the vocabulary of a camera. Raises BadInputError for an unknown name."""
        if name not in self._views:
            raise BadInputError(
                f"there is no camera {name[:80]!r}{nearest(name, self._views)}; there are "
                f"{', '.join(self._views)}"
            )
        return self._views[name]

    def set_classes(self, name: str, classes: str) -> int:
        """Replace a camera's words from its next frame on; return the vocabulary version.

        classes: at most 256 words separated by commas, never a file. Raises BadInputError, and
        UnfinishedError when new words take longer than `WORDS_S`: ask again then.
        """
        version = self.view(name).set_classes(_words(classes), timeout_s=WORDS_S)
        self._words_changed(name)
        return version

    def _words_changed(self, name: str) -> None:
        with self._choosing:
            self._keep(name)
        self._repeat(name)

    def _repeat(self, name: str) -> None:
        if name in self._playbacks:
            self._playbacks[name].repeat()

    def set_colour(self, name: str, class_id: int, colour: str) -> None:
        """Give a class another colour in the pictures of a camera, for as long as it is one of its
        words. colour: as `#rrggbb`.

        Raises BadInputError.
        """
        with self._choosing:
            words = {number: word for word, number, _ in self.view(name).entries}
            if class_id not in words:
                raise BadInputError(
                    f"camera {name!r} has no class {class_id}; it has {sorted(words)}"
                )
            if not re.fullmatch(COLOUR, colour):
                raise BadInputError(f"{colour[:20]!r} is no colour; write #rrggbb, as #ff2626")
            old = self._colours[name]
            kept = {word: bgr for word, bgr in old.items() if word in words.values()}
            self._colours[name] = {**kept, words[class_id]: colour_bgr(colour)}
            self._keep(name)

    def rename(self, name: str, class_id: int, word: str) -> int:
        """Call a learned word of a camera otherwise, as `Drawings.rename`; its colour stays."""
        colours = {one["id"]: one["colour"] for one in self.classes(name)["classes"]}
        version = self.drawings.rename(name, class_id, word)
        ids = {own: number for own, number, _ in self.view(name).entries}
        self.set_colour(name, ids[one_word(word)], colours[class_id])
        return version

    def _keep(self, name: str) -> None:
        """Write what a camera has now, which may be newer than what the caller chose."""
        if self._state is None:
            return
        self._state.put(name, Chosen(self.view(name).vocabulary, self._colours[name]))
        if self._state.error is not None:
            log.error("%s", self._state.error)

    def classes(self, name: str) -> dict[str, Any]:
        """Return the words of a camera: version, and per class name, spelling, id, colour, those of
        its words that the text tower may not know, and, of one that was learned from examples, their
        number and margin."""
        view, colours = self.view(name), self._colours[name]
        own, learned = view.colours_bgr, examples_behind(view.vocabulary)
        return {
            "version": view.vocabulary_version,
            "classes": [
                {
                    "name": word,
                    "entry": entry,
                    "id": class_id,
                    "colour": css_colour(colours.get(word) or own[word]),
                    "spelled_out": self._spelled_out(parse_vocabulary([entry]).words),
                    "learned": learned.get(word),
                }
                for word, class_id, entry in view.entries
            ],
            "negatives": list(view.negatives),
            "background": self._background,
        }

    def state(self) -> dict[str, Any]:
        """Return all that the page shows besides pictures."""
        reports = {report.name: report for report in self.reports()}
        return {
            "can_record": self.recordings.are_possible,
            "collects_to": self.drawings.collects_to,
            "cannot_learn": self._cannot_learn,
            "not_kept": None if self._state is None else self._state.error,
            "cameras": [
                {
                    "name": name,
                    **(_numbers(reports[name]) if name in reports else {}),
                    **self._played(name),
                    "vocabulary": self.classes(name),
                    **self._shares(name),
                    "recording": self.recordings.state(name),
                    "history": self.hub.history(name),
                }
                for name in self._views
            ],
        }

    def playback(self, name: str) -> Playback:
        """Return what pauses and moves a camera. Raises BadInputError for one that cannot be."""
        self.view(name)
        if name not in self._playbacks:
            raise BadInputError(
                f"camera {name!r} cannot be paused or moved: only a recording that is not live and "
                "has no --output can"
            )
        return self._playbacks[name]

    def _played(self, name: str) -> dict[str, Any]:
        playback = self._playbacks.get(name)
        if playback is None:
            return {"playback": None}
        state = playback.state
        # To the run it is paused: it may be played again.
        return {"playback": asdict(state), **({"state": "ended"} if state.ended else {})}

    def _shares(self, name: str) -> dict[str, Any]:
        newest = self.hub.newest(name)
        if newest is None:
            return {}
        told: dict[str, Any] = {"coverage": newest.coverage, "unlabelled": newest.unlabelled}
        if newest.trust is not None:
            told |= {"trust": round(newest.trust, 4), "doubt": doubt_of(newest.trust)}
        return told

    def pixel(self, name: str, x: float, y: float) -> dict[str, Any] | None:
        """Return word (None where unlabelled) and confidence in [0, 1] of one pixel of the newest
        result, None before the first. x, y: in [0, 1), parts of width and height."""
        newest = self.hub.newest(name)
        if newest is None:
            return None
        height, width = newest.label_map.shape
        place = int(y * height), int(x * width)
        class_id = int(newest.label_map[place])
        return {
            "word": None if class_id == newest.none_id else newest.classes[class_id],
            "confidence": round(int(newest.confidence[place]) / 255, 3),
        }

    def reports(self) -> list[CameraReport]:
        """Return the numbers of all cameras."""
        return [] if self._run is None else self._run.reports()

    def stalled(self) -> list[Call]:
        """Return what is stuck now."""
        return [] if self._run is None else self._run.stages.busy_longer_than(STALL_S)

    def segment_picture(self, content: bytes, classes: str) -> Segmentation:
        """Label one JPEG or PNG with words of its own, between the cameras' frames.

        classes and what is raised: as for `set_classes`.
        """
        # A view of its own per request: ids start from 0, and no camera's words are touched.
        view = self._segmenter.share(_words(classes), timeout_s=WORDS_S)
        picture = self._decoder.decode(content)
        with self._imaging:
            return view.segment(picture)


def _words(classes: str) -> Vocabulary:
    return parse_vocabulary(classes, most_words=WORDS_PER_REQUEST)


def _numbers(report: CameraReport) -> dict[str, Any]:
    results = report.results
    return {
        "state": report.source.state.value,
        "since_s": report.source.since_s,
        "reconnects": report.source.reconnects,
        "error": report.source.error,
        "frames": results.frames,
        "fps": results.fps_now,
        "latency_ms": {"p50": results.latency_p50_ms, "p99": results.latency_p99_ms},
        "age_ms": {"p50": results.age_p50_ms, "p99": results.age_p99_ms},
        "drops": results.drops,
        "outputs": report.outputs,
    }
