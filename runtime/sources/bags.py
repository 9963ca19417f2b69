"""Robot recordings as a source: MCAP files and ROS 1/2 bags, with the clock that they were made with."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from dedos_deploy.errors import SourceError, nearest, require
from dedos_deploy.files import check_regular
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.bag_images import decode_image
from dedos_deploy.runtime.sources.bag_readers import BagMessage, BagReader, open_bag_reader
from dedos_deploy.runtime.sources.contract import POLL_S, SUPERSEDED, Outcome, Source

BAG_SUFFIXES = (".mcap", ".bag", ".db3")
ROS2_MARKER = "metadata.yaml"
SETTINGS = ("topic", "rate")
UNREADABLE = "unreadable"


def is_bag(uri: str) -> bool:
    """Return whether an address names a recording: a file by its suffix, or a ROS 2 bag's folder."""
    path = Path(os.path.expanduser(uri.partition("?")[0]))
    return path.suffix.lower() in BAG_SUFFIXES or (path / ROS2_MARKER).is_file()


def open_bag(uri: str) -> BagSource:
    """Return the images of one topic of the recording at `uri`.

    `drive.mcap`, `drive.bag`, `drive/` (a ROS 2 bag's folder), with `?topic=/camera/image` where there
    are several image topics, and `?rate=1` to replay in the time in which it was recorded (2: twice
    as fast), where the newest frame wins as with a camera. Raises SourceError.
    """
    require("rosbags", extra="bags", purpose="reading robot recordings")
    require("mcap", extra="bags", purpose="reading robot recordings")
    address, _, query = uri.partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    for name in settings:
        if name not in SETTINGS:
            raise SourceError(
                f"{uri!r} has an unknown setting {name!r}{nearest(name, SETTINGS)}; a recording takes "
                f"{' and '.join(SETTINGS)}"
            )
    rate = _rate(uri, settings.get("rate"))
    path = Path(os.path.expanduser(address))
    if not path.exists():
        raise SourceError(f"recording {address!r} does not exist; check its name")
    _check_files(path, address)
    return BagSource(
        open_bag_reader(path, topic=settings.get("topic")), source_id=address, rate=rate
    )


class BagSource(Source):
    """Images of one topic, in the order of the recording.

    Frames carry `clock_ns`, the time of the message's header (its logging time where that is zero),
    and `media_s` from the first of them. A message that cannot be decoded is skipped and counted.
    """

    def __init__(self, reader: BagReader, *, source_id: str, rate: float | None) -> None:
        self.source_id = source_id
        self.live = rate is not None
        self.frames = reader.count
        self._reader = reader
        self._rate = rate
        self._messages = iter(reader)
        self._next: BagMessage | None = None
        self._read = 0
        self._first_ns: int | None = None
        self._started_s = 0.0
        self._drops: dict[str, int] = {}
        self._damage = ""

    @property
    def drops(self) -> Mapping[str, int]:
        return dict(self._drops)

    @property
    def warnings(self) -> tuple[str, ...]:
        said = []
        if self._damage:
            said.append(
                f"{self._drops[UNREADABLE]} messages of {self.source_id!r} were skipped, the first "
                f"because {self._damage}"
            )
        return (*said, *self._reader.warnings)

    def read(self, timeout_s: float) -> Frame | Outcome:
        message = self._next or next(self._messages, None)
        self._next = None
        if message is None:
            self._check_any()
            return Outcome.END
        if self._rate is not None:
            if not self._is_due(message, min(timeout_s, POLL_S)):
                self._next = message
                return Outcome.TIMEOUT
            message = self._newest_due(message)
        return self._frame(message)

    def close(self) -> None:
        self._reader.close()

    def _check_any(self) -> None:
        """Refuse a recording that ends without one picture."""
        if self._read == 0:
            raise SourceError(
                f"recording {self.source_id!r} has no message on the topic {self._reader.topic!r}"
            )
        if self._drops.get(UNREADABLE) == self._read:
            raise SourceError(
                f"none of the {self._read} messages of {self.source_id!r} on the topic "
                f"{self._reader.topic!r} is a picture: {self._damage}"
            )

    def _is_due(self, message: BagMessage, timeout_s: float) -> bool:
        """Wait for the message's time; False if it is further off than `timeout_s`."""
        assert self._rate is not None
        if self._first_ns is None:
            self._first_ns, self._started_s = message.clock_ns, time.monotonic()
        due_s = self._started_s + (message.clock_ns - self._first_ns) / 1e9 / self._rate
        wait_s = due_s - time.monotonic()
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        return wait_s <= timeout_s

    def _newest_due(self, message: BagMessage) -> BagMessage:
        """Skip what a camera would have replaced by now; the next one is kept for later."""
        while (following := next(self._messages, None)) is not None:
            if not self._is_due(following, 0.0):
                break
            self._drops[SUPERSEDED] = self._drops.get(SUPERSEDED, 0) + 1
            self._read += 1
            message = following
        self._next = following
        return message

    def _frame(self, message: BagMessage) -> Frame | Outcome:
        index = self._read
        self._read += 1
        if self._first_ns is None:
            self._first_ns = message.clock_ns
        try:
            if isinstance(message.image, SourceError):
                raise message.image
            frame_bgr = decode_image(message.image)
        except SourceError as error:
            self._drops[UNREADABLE] = self._drops.get(UNREADABLE, 0) + 1
            self._damage = self._damage or str(error)
            return Outcome.TIMEOUT
        return Frame(
            frame_bgr,
            index,
            time.monotonic(),
            self.source_id,
            f"{index:06d}",
            media_s=(message.clock_ns - self._first_ns) / 1e9,
            clock_ns=message.clock_ns,
        )


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
