"""What the profiles of an MCAP output have in common: their topics and the messages on them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.files import result_numbers


@dataclass(frozen=True)
class Kind:
    """What a topic's messages are."""

    schema: str
    """Name of their type."""

    schema_encoding: str
    definition: bytes
    """Of the type, in `schema_encoding`."""

    encoding: str
    """Of the messages."""

    metadata: dict[str, str] = field(default_factory=dict)
    """Of the topic."""


class Profile(ABC):
    """A way to put results into messages."""

    name: str
    """Of the profile, in the file's header."""

    seconds: range
    """After 1970 began, that its messages and the file's own index, which knows nothing earlier, can hold."""

    @abstractmethod
    def kinds(self) -> dict[str, Kind]:
        """Return the topics, without what is before them in the recording that is labelled."""

    @abstractmethod
    def contents(
        self, frame: Frame, result: Segmentation, overlay: NDArray[np.uint8]
    ) -> dict[str, bytes]:
        """Return a result's messages by topic. overlay: the frame tinted by class, uint8 BGR."""


def numbers_of(frame: Frame, result: Segmentation) -> bytes:
    """Return the JSON of what there is to say besides pixels, with the classes of the ids."""
    numbers = result_numbers(frame, result)
    numbers |= {"classes": list(result.classes), "none_id": result.none_id}
    return json.dumps(numbers, ensure_ascii=False).encode()
