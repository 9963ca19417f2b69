"""The node's parameters; nothing here needs ROS."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dedos_deploy.errors import BadInputError
from dedos_deploy.tiles import parse_tiles
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary, vocabulary_from_file
from dedos_ros.labels import MaskFormat

TRANSPORTS = ("raw", "compressed")
WORDS_FILE = ".words"
"""How an entry ends that is no word but the path of a words file; no other file is read."""


@dataclass(frozen=True)
class Settings:
    """Parameters with their defaults. `classes` may be changed at any time, the others before configure."""

    bundle: str = "demo"
    """Folder or `.dedos` file, `demo` for the embedded one."""
    classes: tuple[str, ...] = ("road", "sidewalk", "car", "person", "tree", "building", "sky")
    """Entries as `car|automobile@0.3`, or the path of one words file; masks name each by its first word."""
    engine: str = "cpu"
    background: str = "threshold"
    threshold: float = -1.0
    """For entries without their own; below 0 for the bundle's."""
    tiles: str = ""
    """`auto`, rows and columns as `2x3`, a stride in pixels, or `off`; empty for the bundle's."""
    threads: int = 0
    """CPU threads, 0 for one per core."""
    gpu: int = 0
    cameras: tuple[str, ...] = ("",)
    """Names that stand before topics, as in `front/image`; an empty one has the topics themselves."""
    image_transport: str = "raw"
    """`compressed` subscribes `image/compressed` in place of `image`."""
    mask_encoding: str = "mono8"
    unlabelled: int = 255
    resized_wh: tuple[int, ...] = (400, 200)
    """Largest width and height of `~/resized/label_mask`."""
    points: bool = False
    """Whether to subscribe `depth` and `camera_info` and publish `~/points`."""
    sync_s: float = 0.1
    """Most that stamps of a mask and of its depth may be apart."""
    autostart: bool = False
    """Configure and activate at start, where no lifecycle manager does."""

    def __post_init__(self) -> None:
        checks = (
            (
                self.image_transport in TRANSPORTS,
                "image_transport",
                f"one of {', '.join(TRANSPORTS)}",
            ),
            (self.threads >= 0, "threads", "0 for one per core, or more"),
            (self.threshold <= 1, "threshold", "at most 1, or below 0 for the bundle's"),
            (
                len(self.resized_wh) == 2 and min(self.resized_wh) > 0,
                "resized_wh",
                "a width and a height above 0",
            ),
            (0 <= self.sync_s <= 10, "sync_s", "between 0 and 10 seconds"),
        )
        for good, name, allowed in checks:
            if not good:
                raise BadInputError(f"{name} must be {allowed}, not {getattr(self, name)!r}")
        if self.tiles:
            parse_tiles(self.tiles)
        _check_cameras(self.cameras)
        self.format.check(len(self.vocabulary.names))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Return settings from parameters by name; those left out have their defaults.

        Raises BadInputError.
        """
        for name, value in values.items():
            if value is None:  # as an empty list comes from a file or a command line
                raise BadInputError(f"{name} must not be empty; give it a value or leave it out")
        listed = {
            name: tuple(value)
            if isinstance(value, Sequence) and not isinstance(value, str)
            else value
            for name, value in values.items()
        }
        return cls(**listed)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return names and defaults as parameters have them: lists, not tuples."""
        return {
            field.name: list(field.default) if isinstance(field.default, tuple) else field.default
            for field in dataclasses.fields(cls)
        }

    @property
    def format(self) -> MaskFormat:
        """How masks write ids."""
        return MaskFormat(self.mask_encoding, self.unlabelled)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The classes, parsed; a words file is read once, so that what was checked is what comes to hold."""
        files = [name.strip() for name in self.classes if name.strip().endswith(WORDS_FILE)]
        if not files:
            return parse_vocabulary(list(self.classes))
        if len(self.classes) > 1:
            raise BadInputError(
                f"classes name the words file {files[0]!r} beside others; give the file alone, or words"
            )
        return vocabulary_from_file(Path(files[0]))


def _check_cameras(cameras: tuple[str, ...]) -> None:
    if cameras == ("",):
        return
    for name in cameras:
        if not re.fullmatch(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", name, re.ASCII):
            raise BadInputError(
                f"a camera's name is one for topics, as front or arm/left, not {name!r}"
            )
    if len(set(cameras)) < len(cameras) or not cameras:
        raise BadInputError(
            f"cameras must have names of their own, not {', '.join(cameras) or 'none'}"
        )
