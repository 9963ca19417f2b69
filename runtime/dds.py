"""Topics of ROS 2 over DDS, without a ROS installation: messages go in and come out serialized."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dedos_deploy.borders import Refusal
from dedos_deploy.closing import Closing
from dedos_deploy.errors import require
from dedos_deploy.runtime.dds_address import TopicAddress, discovery_config
from dedos_deploy.runtime.dds_types import Serialized, ros_name, serialized_type
from dedos_deploy.runtime.ros2_messages import Ros2Messages

if TYPE_CHECKING:
    from cyclonedds.builtin import DcpsEndpoint
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.pub import DataWriter
    from cyclonedds.qos import Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic

EXTRA = "dds"
WRITE_TIMEOUT_S = 0.1
"""How long a message waits for subscribers that are slow, as in ROS."""
MOST_ENDPOINTS = 4096
"""Publishers in a domain that are looked through."""

_HASH = re.compile(rb"typehash=([^;]*);")


@dataclass(frozen=True)
class Publication:
    """A publisher that was discovered."""

    topic: str
    """As ROS calls it, with its slash."""

    kind: str
    """Type of its messages, as ROS calls it."""

    is_reliable: bool
    type_hash: str
    """Of the type's definition, "" where the publisher tells none."""


def check_installed(purpose: str) -> None:
    """Raise MissingExtraError without the library; purpose: what it is needed for."""
    require("cyclonedds.domain", extra=EXTRA, purpose=purpose)


class Node(Closing):
    """A participant of a domain. Domains are the process's: the first node configures its own."""

    def __init__(self, domain: int, *, refusal: Refusal, purpose: str) -> None:
        """refusal: makes the error from a reason; purpose: what the libraries are needed for.

        Raises MissingExtraError, and what `refusal` makes of settings of the environment and where
        the network cannot be used.
        """
        check_installed(purpose)
        self.messages = Ros2Messages(extra=EXTRA, purpose=purpose)
        from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication

        config = discovery_config(os.environ, refusal=refusal)
        self._refusal = refusal
        self._domain = domain
        with self.using():
            self.participant = _joined(domain, config)
            try:
                self._found = BuiltinDataReader(self.participant, BuiltinTopicDcpsPublication)
            except BaseException:
                del self.participant
                _left(domain)
                raise
        self._closed = False

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Turn what Cyclone DDS raises into the node's error."""
        from cyclonedds.core import DDSException

        try:
            yield
        except DDSException as error:
            reason = str(error).partition("Occurred")[0].strip().rstrip(".")
            raise self._refusal(
                f"Cyclone DDS cannot use domain {self._domain} ({reason}); check the network, and "
                "CYCLONEDDS_URI if it is set"
            ) from error

    def publications(self) -> list[Publication]:
        """Return the publishers that are known by now, of topics of ROS alone."""
        from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState

        with self.using():
            alive = ReadCondition(
                self._found, ViewState.Any | SampleState.Any | InstanceState.Alive
            )
            endpoints = self._found.read(MOST_ENDPOINTS, condition=alive)
        return [_publication(one) for one in endpoints if one.topic_name.startswith("rt/")]

    def writer(
        self, address: TopicAddress, topic: str, kind: str, *, latched: bool = False
    ) -> Writer:
        """Return a publisher of a topic below an address; latched: whoever comes later gets its last
        message, too."""
        return Writer(self, address, topic, kind, latched=latched)

    def reader(self, topic: str, kind: str, *, reliable: bool, depth: int) -> Reader:
        """Return a subscriber of a topic. depth: messages kept for `take`, the newest ones."""
        return Reader(self, topic, kind, reliable=reliable, depth=depth)

    def close(self) -> None:
        """Leave the domain; readers and writers must not be used any more."""
        if not self._closed:
            self._closed = True
            # Cyclone DDS's objects are deleted with the last reference to them, and a participant
            # with all that is its own.
            del self._found, self.participant
            _left(self._domain)


class Writer:
    """A publisher of serialized messages."""

    def __init__(
        self, node: Node, address: TopicAddress, topic: str, kind: str, *, latched: bool
    ) -> None:
        from cyclonedds.core import Policy
        from cyclonedds.pub import DataWriter

        self._node = node
        self._type = serialized_type(node.messages, kind)
        reliable = latched or address.reliability != "best_effort"
        qos = _qos(node.messages, kind, reliable=reliable, depth=1 if latched else address.depth)
        if latched:
            qos = type(qos)(Policy.Durability.TransientLocal, base=qos)
        with node.using():
            self._writer: DataWriter[Any] = DataWriter(
                node.participant, _topic(node, address.name + topic, self._type), qos
            )

    @property
    def is_heard(self) -> bool:
        """Whether anybody subscribes to the topic."""
        with self._node.using():
            return bool(self._writer.get_matched_subscriptions())

    def write(self, content: bytes) -> bool:
        """Send a message; False if subscribers were too slow to take it within WRITE_TIMEOUT_S."""
        from cyclonedds.core import DDSException

        with self._node.using():
            try:
                self._writer.write(self._type.holding(content))
            except DDSException as error:
                if error.code != DDSException.DDS_RETCODE_TIMEOUT:
                    raise
                return False
        return True


class Reader:
    """A subscriber to serialized messages."""

    def __init__(self, node: Node, topic: str, kind: str, *, reliable: bool, depth: int) -> None:
        from cyclonedds.core import (
            InstanceState,
            ReadCondition,
            SampleState,
            ViewState,
            WaitSet,
        )
        from cyclonedds.sub import DataReader

        self.kind = kind
        self._node = node
        self._depth = depth
        raw = serialized_type(node.messages, kind)
        with node.using():
            self._reader: DataReader[Any] = DataReader(
                node.participant,
                _topic(node, topic, raw),
                _qos(node.messages, kind, reliable=reliable, depth=depth),
            )
            self._coming = WaitSet(node.participant)
            self._coming.attach(
                ReadCondition(self._reader, ViewState.Any | SampleState.Any | InstanceState.Any)
            )

    @property
    def has_publisher(self) -> bool:
        with self._node.using():
            return bool(self._reader.get_matched_publications())

    def take(self, timeout_s: float) -> list[bytes]:
        """Return the messages that came since the last time, waiting for one; none if none came."""
        with self._node.using():
            # The wait is not interrupted by signals, and so a short one.
            self._coming.wait(int(1e9 * timeout_s))
            taken = self._reader.take(self._depth)
        return [sample.cdr for sample in taken if sample.sample_info.valid_data]


def _publication(endpoint: DcpsEndpoint) -> Publication:
    from cyclonedds.core import Policy

    qos = endpoint.qos
    told = qos[Policy.Userdata].data if Policy.Userdata in qos else b""
    found = _HASH.search(told)
    return Publication(
        endpoint.topic_name.removeprefix("rt"),
        ros_name(endpoint.type_name),
        isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable),
        found[1].decode("ascii", "replace") if found else "",
    )


def _topic(node: Node, topic: str, kind: type[Serialized]) -> Topic[Any]:
    from cyclonedds.topic import Topic

    return Topic(node.participant, f"rt{topic}", kind)


def _qos(messages: Ros2Messages, kind: str, *, reliable: bool, depth: int) -> Qos:
    from cyclonedds.core import Policy, Qos

    reliability = Policy.Reliability
    return Qos(
        reliability.Reliable(int(1e9 * WRITE_TIMEOUT_S)) if reliable else reliability.BestEffort,
        Policy.History.KeepLast(depth),
        # What ROS 2 speaks; readers of the newer one refuse it.
        Policy.DataRepresentation(use_cdrv0_representation=True),
        # By which ROS tells whether both sides mean the same by a type's name.
        Policy.Userdata(f"typehash={messages.type_hash(kind)};".encode()),
    )


# Cyclone DDS configures a domain once for a whole process.
_lock = threading.Lock()
_configured: dict[int, Domain] = {}
_nodes: Counter[int] = Counter()


def _joined(domain: int, config: str | None) -> DomainParticipant:
    """Return a new participant of a domain, which is configured with the first of them."""
    from cyclonedds.core import DDSException
    from cyclonedds.domain import Domain, DomainParticipant

    with _lock:
        if config is not None and not _nodes[domain]:
            try:
                _configured[domain] = Domain(domain, config)
            except DDSException as error:
                # The program around us has joined it by itself, with settings of its own.
                if error.code != DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:
                    raise
        try:
            participant = DomainParticipant(domain)
        except BaseException:
            if not _nodes[domain]:
                _configured.pop(domain, None)
            raise
        _nodes[domain] += 1
    return participant


def _left(domain: int) -> None:
    with _lock:
        _nodes[domain] -= 1
        if not _nodes[domain]:
            _configured.pop(domain, None)
