"""Pictures of a topic of ROS 2 as a source, over DDS and without a ROS installation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError, listed, nearest
from dedos_deploy.pictures import STRETCHED
from dedos_deploy.runtime.dds import Node, Publication, Reader, check_installed
from dedos_deploy.runtime.dds_address import TopicAddress, parse_topic
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.ros2_messages import IMAGE, JPEG
from dedos_deploy.runtime.sources.bag_images import decode_image
from dedos_deploy.runtime.sources.bag_readers import BagMessage, decoded_message
from dedos_deploy.runtime.sources.contract import (
    POLL_S,
    SUPERSEDED,
    Drops,
    Outcome,
    Source,
)

OPEN_TIMEOUT_S = 10.0
"""Within which a publisher must be found, and its first picture come."""
GONE_S = 5.0
"""Without a publisher, after which the source counts as lost."""
RELIABILITIES = ("auto", "reliable", "best_effort")
"""`auto` is what the publisher offers."""
KINDS = (IMAGE, JPEG)


def check_topic(uri: str) -> TopicAddress:
    """Return what an address asks for. Raises SourceError and MissingExtraError where no waiting for a
    publisher would help."""
    address = parse_topic(uri, os.environ, refusal=SourceError, reliabilities=RELIABILITIES)
    check_installed(f"reading {uri}")
    return address


def connect_topic(uri: str, *, open_timeout_s: float = OPEN_TIMEOUT_S) -> TopicSource:
    """Return the pictures of `ros2:/camera/image?domain=3`, once the first one has come.

    Raises SourceError, MissingExtraError.
    """
    address = check_topic(uri)
    node = Node(address.domain, refusal=SourceError, purpose=f"reading {uri}")
    try:
        ends_s = time.monotonic() + open_timeout_s
        publishers = _found(node, address, ends_s)
        # Whoever asks for more than a publisher offers gets nothing from it.
        is_reliable = address.reliability != "best_effort" and all(
            one.is_reliable for one in publishers
        )
        kind = publishers[0].kind
        reader = node.reader(address.name, kind, reliable=is_reliable, depth=address.depth)
        source = TopicSource(address, node, reader)
        source.wait_for_first(ends_s)
    except BaseException:
        node.close()
        raise
    return source


class TopicSource(Source):
    """Pictures of one topic as they come; whoever reads slowly gets the newest of those that are kept.

    Frames carry the header's stamp as `clock_ns` (None for one of 0, which is ROS's for none) and its
    `frame_id`. A message that cannot be decoded is skipped and counted. Raises SourceError from `read`
    once the topic has had no publisher for GONE_S.
    """

    live = True

    def __init__(self, address: TopicAddress, node: Node, reader: Reader) -> None:
        """node: is closed with the source."""
        self.source_id = address.uri
        self.topic = address.name
        self._node = node
        self._reader: Reader | None = reader
        self._kept: list[bytes] = []
        self._count = 0
        self._heard_s = time.monotonic()
        self._drops = Drops(SUPERSEDED)
        self._stretched = False

    @property
    def drops(self) -> Mapping[str, int]:
        return dict(self._drops.counts)

    @property
    def warnings(self) -> tuple[str, ...]:
        said = self._drops.warnings(self.source_id)
        if self._stretched:
            said.append(f"{STRETCHED}, as {self.source_id!r}")
        return tuple(said)

    def read(self, timeout_s: float) -> Frame | Outcome:
        assert self._reader is not None, "closed"
        taken = [*self._kept, *self._reader.take(0.0 if self._kept else timeout_s)]
        self._kept = []
        self._count += len(taken)
        if not taken:
            self._check_publisher(self._reader)
            return Outcome.TIMEOUT
        self._heard_s = time.monotonic()
        self._drops.add(SUPERSEDED, len(taken) - 1)
        return self._frame(self._decoded(taken[-1], self._reader.kind))

    def close(self) -> None:
        self._reader = None
        self._node.close()

    def wait_for_first(self, ends_s: float) -> None:
        """Wait for a message, which the first `read` gives. Raises SourceError: none, or no picture."""
        assert self._reader is not None, "closed"
        while not self._kept:
            self._kept = self._reader.take(POLL_S)
            if not self._kept and time.monotonic() > ends_s:
                raise SourceError(
                    f"source {self.source_id!r} has a publisher and delivers no frame; check that it "
                    "publishes: large pictures sent best effort may never arrive whole"
                )
        message = self._decoded(self._kept[-1], self._reader.kind)
        try:
            _picture(message, self._note_stretch)
        except SourceError as error:
            raise SourceError(f"source {self.source_id!r} gives no picture: {error}") from error

    def _note_stretch(self) -> None:
        self._stretched = True

    def _decoded(self, cdr: bytes, kind: str) -> BagMessage:
        return decoded_message(
            kind, partial(self._node.messages.store.deserialize_cdr, cdr, kind), 0
        )

    def _check_publisher(self, reader: Reader) -> None:
        now_s = time.monotonic()
        if reader.has_publisher:
            self._heard_s = now_s
        elif now_s - self._heard_s > GONE_S:
            raise SourceError(
                f"source {self.source_id!r} stopped delivering frames: its topic has had no publisher "
                f"for {GONE_S:g} s"
            )

    def _frame(self, message: BagMessage) -> Frame | Outcome:
        now_s = time.monotonic()
        try:
            frame_bgr, coordinate_frame = _picture(message, self._note_stretch)
        except SourceError as error:
            self._drops.skip(error)
            return Outcome.TIMEOUT
        frame_id = self.first_id + self._count - 1
        return Frame(
            frame_bgr,
            frame_id,
            now_s,
            self.source_id,
            f"{frame_id:06d}",
            clock_ns=message.stamp_ns or None,
            topic=self.topic,
            coordinate_frame=coordinate_frame,
        )


def _picture(message: BagMessage, on_stretch: Callable[[], None]) -> tuple[NDArray[np.uint8], str]:
    """Return a message's picture, uint8 BGR [H, W, 3], and its `frame_id`. Raises SourceError."""
    if isinstance(message.image, SourceError):
        raise message.image
    return decode_image(message.image, on_stretch=on_stretch), message.image.coordinate_frame


def _found(node: Node, address: TopicAddress, ends_s: float) -> list[Publication]:
    """Wait for publishers of a topic, and return those of pictures. Raises SourceError."""
    while True:
        known = node.publications()
        if here := [one for one in known if one.topic == address.name]:
            return _of_pictures(node, address, here)
        if time.monotonic() > ends_s:
            raise SourceError(
                f"source {address.uri!r} has no publisher in domain {address.domain}"
                f"{_instead(address.name, known)}"
            )
        time.sleep(POLL_S / 2)


def _instead(name: str, known: Sequence[Publication]) -> str:
    pictures = sorted({one.topic for one in known if one.kind in KINDS})
    if pictures:
        return f"{nearest(name, pictures)}; pictures are published on {listed(pictures)}"
    what = f"only {listed(sorted({one.topic for one in known}))}" if known else "nothing"
    return (
        f", in which {what} is published; check that its node runs, ROS_DOMAIN_ID, and "
        "ROS_AUTOMATIC_DISCOVERY_RANGE, here LOCALHOST unless it is set"
    )


def _of_pictures(
    node: Node, address: TopicAddress, here: Sequence[Publication]
) -> list[Publication]:
    pictures = [one for one in here if one.kind in KINDS]
    if not pictures:
        raise SourceError(
            f"source {address.uri!r} carries {listed(sorted({one.kind for one in here}))}; pictures "
            f"are {' and '.join(KINDS)}"
        )
    first = pictures[0]
    if first.type_hash and first.type_hash != node.messages.type_hash(first.kind):
        raise SourceError(
            f"source {address.uri!r} carries another {first.kind} than ROS 2 defines (hash of its "
            f"definition {first.type_hash[:80]!r}); publish the standard one"
        )
    if address.reliability == "reliable" and not first.is_reliable:
        raise SourceError(
            f"source {address.uri!r} is published best effort, and cannot be read reliably; leave "
            "out reliability, or have its publisher offer it"
        )
    return [one for one in pictures if one.kind == first.kind]
