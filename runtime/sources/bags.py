"""Robot recordings as a source: MCAP files and ROS 1/2 bags, with the clock that they were made with."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dedos_deploy.errors import SourceError, require
from dedos_deploy.files import check_regular
from dedos_deploy.pictures import STRETCHED
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.bag_clock import RecordingClock, rate_of
from dedos_deploy.runtime.sources.bag_images import ImageMessage, decode_image
from dedos_deploy.runtime.sources.bag_readers import (
    ACTIVE,
    BagMessage,
    BagReader,
    open_bag_reader,
)
from dedos_deploy.runtime.sources.contract import (
    POLL_S,
    SUPERSEDED,
    UNREADABLE,
    Drops,
    Outcome,
    Source,
)
from dedos_deploy.runtime.uri import settings_of

BAG_SUFFIXES = (".mcap", ".bag", ".db3", ACTIVE)
ROS2_MARKER = "metadata.yaml"
SETTINGS = ("topic", "rate")
LOOKED_AT = 11
"""Messages whose times tell the rate."""


def is_bag(uri: str) -> bool:
    """Return whether an address names a recording: a file by its suffix, or a ROS 2 bag's folder."""
    path = Path(os.path.expanduser(uri.partition("?")[0]))
    if path.suffix.lower() in BAG_SUFFIXES or (path / ROS2_MARKER).is_file():
        return True
    # As a killed recorder leaves it.
    return any(path.glob("*.db3")) or (path / f"{path.name}_0.mcap").is_file()


def open_bag(uri: str) -> BagSource:
    """Return the images of one topic of the recording at `uri`.

    `drive.mcap`, `drive.bag`, `drive/` (a ROS 2 bag's folder), with `?topic=/camera/image` where there
    are several image topics, and `?rate=1` to replay in the time in which it was recorded (2: twice
    as fast), where the newest frame wins as with a camera. Raises SourceError.
    """
    require("rosbags", extra="bags", purpose="reading robot recordings")
    require("mcap", extra="bags", purpose="reading robot recordings")
    address, _, query = uri.partition("?")
    takes = f"a recording takes {' and '.join(SETTINGS)}"
    settings = settings_of(query, SETTINGS, what=repr(uri), takes=takes, refusal=SourceError)
    rate = _rate(uri, settings.get("rate"))
    path = Path(os.path.expanduser(address))
    if not path.exists():
        raise SourceError(f"recording {address!r} does not exist; check its name")
    _check_files(path, address)
    return BagSource(
        open_bag_reader(path, topic=settings.get("topic")), source_id=address, rate=rate
    )


@dataclass(frozen=True, eq=False)
class _Picture:
    """A message with a picture that is not decoded yet."""

    index: int
    """Among all messages of the topic."""

    message: ImageMessage
    clock_ns: int
    """By the recording's clock, see RecordingClock."""


class BagSource(Source):
    """Images of one topic, in the order of the recording.

    Frames carry `clock_ns`, the time of the message's header (see RecordingClock for those that are
    missing or make no sense), `media_s` from the first of them, and the names that the recording has
    for topic and camera. A message that cannot be decoded is skipped and counted.
    """

    def __init__(self, reader: BagReader, *, source_id: str, rate: float | None) -> None:
        self.source_id = source_id
        self.live = rate is not None
        self.frames = reader.count
        self._reader = reader
        self._rate = rate
        recorded = _rate_at_start(reader)
        self.fps = recorded and recorded * (rate or 1.0)
        self._messages = iter(reader)
        self._clock = RecordingClock()
        self._next: _Picture | None = None
        self._read = 0
        self._first_ns: int | None = None
        self._started_s = 0.0
        self._drops = Drops()
        self._stretched = False

    @property
    def drops(self) -> Mapping[str, int]:
        return dict(self._drops.counts)

    @property
    def warnings(self) -> tuple[str, ...]:
        said = self._drops.warnings(self.source_id)
        if self._clock.used_log:
            said.append(
                f"{self._clock.used_log} of {self._read} messages of {self.source_id!r} have a header "
                "stamp that is missing, stands still, goes back or jumps; the time that passed by the "
                "recorder's clock is used for them"
            )
        if self._stretched:
            said.append(f"{STRETCHED}, as {self._reader.topic!r} of {self.source_id!r}")
        return (*said, *self._reader.warnings)

    def read(self, timeout_s: float) -> Frame | Outcome:
        if self._next is None:
            message = next(self._messages, None)
            if message is None:
                self._check_any()
                return Outcome.END
            self._next = self._timed(message)
        picture, self._next = self._next, None
        if picture is None:
            return Outcome.TIMEOUT
        if self._rate is not None:
            if not self._is_due(picture, min(timeout_s, POLL_S)):
                self._next = picture
                return Outcome.TIMEOUT
            picture = self._newest_due(picture)
        return self._frame(picture)

    def close(self) -> None:
        self._reader.close()

    def _check_any(self) -> None:
        """Refuse a recording that ends without one picture."""
        if self._read == 0:
            raise SourceError(
                f"recording {self.source_id!r} has no message on the topic {self._reader.topic!r}"
            )
        if self._drops.counts.get(UNREADABLE) == self._read:
            raise SourceError(
                f"none of the {self._read} messages of {self.source_id!r} on the topic "
                f"{self._reader.topic!r} is a picture: {self._drops.damage}"
            )

    def _timed(self, message: BagMessage) -> _Picture | None:
        """Number a message and find its time; None, and counted, if it is damaged."""
        index = self._read
        self._read += 1
        if isinstance(message.image, SourceError):
            self._drops.skip(message.image)
            return None
        clock_ns = self._clock.time_ns(message.stamp_ns, message.logged_ns)
        if self._first_ns is None:
            self._first_ns, self._started_s = clock_ns, time.monotonic()
        return _Picture(index, message.image, clock_ns)

    def _media_s(self, picture: _Picture) -> float:
        assert self._first_ns is not None
        return (picture.clock_ns - self._first_ns) / 1e9

    def _is_due(self, picture: _Picture, timeout_s: float) -> bool:
        """Wait for the picture's time; False if it is further off than `timeout_s`."""
        assert self._rate is not None
        wait_s = self._started_s + self._media_s(picture) / self._rate - time.monotonic()
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        return wait_s <= timeout_s

    def _newest_due(self, picture: _Picture) -> _Picture:
        """Skip what a camera would have replaced by now; the next one is kept for later."""
        for message in self._messages:
            following = self._timed(message)
            if following is None:
                continue
            if not self._is_due(following, 0.0):
                self._next = following
                break
            self._drops.add(SUPERSEDED)
            picture = following
        return picture

    def _frame(self, picture: _Picture) -> Frame | Outcome:
        try:
            frame_bgr = decode_image(picture.message, on_stretch=self._note_stretch)
        except SourceError as error:
            self._drops.skip(error)
            return Outcome.TIMEOUT
        return Frame(
            frame_bgr,
            picture.index,
            time.monotonic(),
            self.source_id,
            f"{picture.index:06d}",
            media_s=self._media_s(picture),
            clock_ns=picture.clock_ns,
            topic=self._reader.topic,
            coordinate_frame=picture.message.coordinate_frame,
        )

    def _note_stretch(self) -> None:
        self._stretched = True


def _rate_at_start(reader: BagReader) -> float | None:
    """Return the rate of the first few pictures, None where it cannot be told."""
    clock, times_ns = RecordingClock(), []
    # What is wrong with the recording is said when it is read.
    with contextlib.suppress(SourceError):
        for message in islice(reader, LOOKED_AT):
            if not isinstance(message.image, SourceError):
                times_ns.append(clock.time_ns(message.stamp_ns, message.logged_ns))
    return rate_of(times_ns)


def _check_files(path: Path, address: str) -> None:
    """Refuse named pipes and devices, at which libraries would wait; of a folder every file counts."""
    try:
        files = path.iterdir() if path.is_dir() else [path]
        for file in files:
            if not file.is_dir():
                check_regular(file)
    except OSError as error:
        raise SourceError(
            f"recording {address!r} cannot be read ({error.strerror}); give a file, or the folder "
            "of a ROS 2 bag"
        ) from error


def _rate(uri: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.01 <= rate <= 1000:
        raise SourceError(f"{uri!r}: rate must lie in 0.01 to 1000, not {text!r}")
    return rate
