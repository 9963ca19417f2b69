"""Frames to calibrate with: spread over time and over brightness, and only usable ones."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.pictures import IMAGE_SUFFIXES, Picture, open_picture
from dedos_deploy.runtime.flow.feed import Feed
from dedos_deploy.runtime.flow.feed_options import LENT
from dedos_deploy.runtime.frame import Frame, resize_frame
from dedos_deploy.runtime.sources.contract import POLL_S, Outcome, Source
from dedos_deploy.runtime.sources.images import find_images
from dedos_deploy.runtime.sources.opening import open_source
from dedos_deploy.runtime.uri import redact

MIN_FRAMES = 16
"""Fewer frames than this see too little of what a robot meets to set a range by."""

CANDIDATES = 4
"""Frames looked at for every frame taken, so that brightness leaves a choice."""

LIVE_S = 60.0
CONSTANT_STD = 1.0
"""A picture whose grey levels vary less than this in every channel shows nothing."""

CONSTANT, DUPLICATE, UNREADABLE = "constant", "duplicate", "unreadable"

_SCHEME = re.compile(r"[a-zA-Z]{2,}:")
"""`rtsp:`, `scene:` and the like, where a question mark is no glob; one letter is a Windows drive."""


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that was looked at and cannot be used."""

    name: str
    """File, or number of the frame in its source."""

    reason: str
    """`constant`, `duplicate` or `unreadable`."""


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationFrames:
    """The frames of one calibration."""

    frames: tuple[Picture, ...]
    """uint8 [H0, W0, 3] BGR each, at the network size, in order of time."""

    data_sha256: str
    """Hash of the frames' pixels, whatever their order."""

    source: str
    """Where the frames came from, without credentials."""

    skipped: tuple[SkippedFrame, ...] = ()
    """What was looked at and not usable."""

    warnings: tuple[str, ...] = ()
    """Sentences about a source that gave less than it promised."""

    def __repr__(self) -> str:
        return (
            f"CalibrationFrames({len(self.frames)} of {self.source!r}, "
            f"{self.data_sha256[:12]}, skipped {describe_skipped(self.skipped)})"
        )


def calibration_frames(
    source: str | os.PathLike[str],
    *,
    size_hw: tuple[int, int],
    count: int = 64,
    seed: int = 0,
    live_s: float = LIVE_S,
) -> CalibrationFrames:
    """Return up to `count` frames of `source`, resized as the runtime does.

    source: a folder, searched with its sub-folders (only its `images` when it has such a folder, as
    a labelled one has), or whatever open_source takes: glob, video, camera, stream, scene.
    size_hw: network size in pixels; count: at least 16; seed: other seeds take other frames;
    live_s: seconds to watch a camera or stream.

    Four times as many frames are looked at, evenly in time. Unreadable and constant ones and exact
    duplicates are left out and reported. The rest is cut into equal stretches of time, and each
    stretch gives frames from equal parts of its own range of brightness. Files and recordings give
    the same frames for the same seed.

    Raises BadInputError for a count below 16 or fewer than 16 usable frames, SourceError when the
    source does not open or has no frame.
    """
    if count < MIN_FRAMES:
        raise BadInputError(
            f"{count} calibration frames are too few, at least {MIN_FRAMES} are needed and "
            f"64 are better; raise the number of frames"
        )
    address = os.fspath(source)
    candidates = _Candidates(size_hw, limit=CANDIDATES * count)
    pictures = _pictures(address)
    if pictures:
        candidates.add_pictures(pictures)
    else:
        with open_source(address) as opened:
            candidates.add_source(opened, live_s)
    usable, skipped = candidates.settled()
    _check_enough(len(usable), skipped, redact(address))
    frames = tuple(usable[index] for index in _spread(usable, count, seed))
    return CalibrationFrames(
        frames, data_sha256(frames), redact(address), skipped, tuple(candidates.warnings)
    )


def data_sha256(frames: Sequence[Picture]) -> str:
    """Return the hash of a set of frames: the same for the same pictures in any order."""
    digests = sorted(frame_sha256(frame) for frame in frames)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def frame_sha256(frame: Picture) -> str:
    """Return the hash of the size and pixels of one frame, uint8 [H, W, 3]."""
    digest = hashlib.sha256("x".join(map(str, frame.shape)).encode())
    digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def describe_skipped(skipped: Sequence[SkippedFrame]) -> str:
    """Return how many frames were skipped for which reason, and the first of each by name.

    >>> describe_skipped([SkippedFrame("a.jpg", "constant"), SkippedFrame("b.jpg", "constant")])
    "2 constant (first: 'a.jpg')"
    """
    counts = Counter(each.reason for each in skipped)
    first = {each.reason: each.name for each in reversed(skipped)}
    parts = [f"{number} {reason} (first: {first[reason]!r})" for reason, number in counts.items()]
    return ", ".join(parts) or "none"


def _pictures(address: str) -> list[Path]:
    """Return the files of a folder or glob in natural order, none for any other source."""
    path = Path(os.path.expanduser(address))
    if path.is_dir():
        folder = path / "images" if (path / "images").is_dir() else path
        return find_images(Path(glob.escape(str(folder))) / "**" / "*", IMAGE_SUFFIXES)
    if glob.has_magic(address) and not _SCHEME.match(address) and not path.exists():
        return find_images(path, IMAGE_SUFFIXES)
    return []


class _Candidates:
    """What was looked at so far, by its place in time; at most twice `limit` frames of it."""

    def __init__(self, size_hw: tuple[int, int], limit: int) -> None:
        self.warnings: list[str] = []
        self._size_hw, self._limit = size_hw, limit
        self._stride = 1
        self._seen: dict[int, _Seen] = {}

    def add_pictures(self, paths: Sequence[Path]) -> None:
        """Look at files, evenly over their order, until `limit` different ones are usable."""
        digests: set[str] = set()
        for index in _evenly(len(paths)):
            try:
                frame_bgr = open_picture(paths[index], whole=True)
            except BadInputError:
                self._seen[index] = _Seen(str(paths[index]), None, UNREADABLE)
                continue
            seen = self._add(index, str(paths[index]), frame_bgr)
            digests |= {seen.digest} if seen.picture is not None else set()
            if len(digests) == self._limit:
                return

    def add_source(self, source: Source, live_s: float) -> None:
        """Look at frames of a source, evenly over a length that is known only at its end."""
        for number, frame in enumerate(_frames(source, live_s, self.warnings)):
            if number >= 2 * self._limit * self._stride:
                self._stride *= 2
                self._seen = {at: it for at, it in self._seen.items() if at % self._stride == 0}
            if number % self._stride == 0:
                self._add(number, f"frame {frame.frame_id}", frame.frame_bgr)
        self.warnings += source.warnings

    def settled(self) -> tuple[list[Picture], tuple[SkippedFrame, ...]]:
        """Return the usable frames and the others, both in order of time."""
        usable: dict[str, Picture] = {}
        skipped: list[SkippedFrame] = []
        for _, seen in sorted(self._seen.items(), key=lambda item: item[0]):
            if seen.picture is None:
                skipped.append(SkippedFrame(seen.name, seen.unusable))
            elif seen.digest in usable:
                skipped.append(SkippedFrame(seen.name, DUPLICATE))
            else:
                usable[seen.digest] = seen.picture
        return list(usable.values()), tuple(skipped)

    def _add(self, place: int, name: str, frame_bgr: Picture) -> _Seen:
        picture = np.empty((*self._size_hw, 3), np.uint8)
        resize_frame(frame_bgr, picture)
        constant = picture.std(axis=(0, 1)).max() < CONSTANT_STD
        seen = _Seen(name, None, CONSTANT) if constant else _Seen(name, picture)
        self._seen[place] = seen
        return seen


class _Seen:
    """A frame that was looked at: its picture at the network size, or why there is none."""

    def __init__(self, name: str, picture: Picture | None, unusable: str = "") -> None:
        self.name, self.picture, self.unusable = name, picture, unusable
        self.digest = "" if picture is None else frame_sha256(picture)


def _frames(source: Source, live_s: float, warnings: list[str]) -> Iterator[Frame]:
    """Yield the frames of a source: all of a recording, `live_s` seconds of a live one."""
    deadline_s = time.monotonic() + live_s if source.live else float("inf")
    delivered = False
    try:
        with Feed(source.source_id, lambda: source, options=LENT) as feed:
            while time.monotonic() < deadline_s:
                item = feed.read(POLL_S)
                if item is Outcome.END:
                    break
                if isinstance(item, Frame):
                    delivered = True
                    yield item
    except SourceError as error:
        if not delivered:
            raise
        # What a camera gave before it was lost is as good as ever.
        warnings.append(str(error))
    if not delivered:
        raise SourceError(
            f"source {source.source_id!r} gave no frame"
            + (f" in {live_s:g} s; check that it delivers" if source.live else "; choose another")
        )


def _evenly(length: int) -> Iterator[int]:
    """Yield 0 … length - 1 in an order of which every beginning is spread evenly.

    >>> list(_evenly(6))
    [0, 4, 2, 1, 5, 3]
    """
    bits = max(length - 1, 0).bit_length()
    for number in range(1 << bits):
        index = int(format(number, f"0{bits}b")[::-1], 2) if bits else number
        if index < length:
            yield index


def _spread(frames: Sequence[Picture], count: int, seed: int) -> list[int]:
    """Return the places of at most `count` frames, even in time and, within it, in brightness."""
    if len(frames) <= count:
        return list(range(len(frames)))
    rng = np.random.default_rng(seed)
    brightness = np.array([frame.mean() for frame in frames])
    stretches = int(np.sqrt(count))
    chosen: list[int] = []
    for places, quota in zip(
        np.array_split(np.arange(len(frames)), stretches),
        np.array_split(np.arange(count), stretches),
        strict=True,
    ):
        by_brightness = places[np.argsort(brightness[places], kind="stable")]
        chosen += [int(rng.choice(part)) for part in np.array_split(by_brightness, len(quota))]
    return sorted(chosen)


def _check_enough(usable: int, skipped: Sequence[SkippedFrame], source: str) -> None:
    if usable < MIN_FRAMES:
        raise BadInputError(
            f"{source!r} has {usable} usable frames for calibration, at least {MIN_FRAMES} are "
            f"needed (skipped: {describe_skipped(skipped)}); give more pictures of the place, "
            f"or a longer video"
        )
