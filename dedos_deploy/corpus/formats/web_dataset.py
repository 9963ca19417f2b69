"""WebDataset: tars of samples with the picture, the label map as a PNG, and a JSON of what is in it."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np

from dedos_deploy.corpus.formats.contract import (
    UNLABELLED,
    ExportFrame,
    ExportPicture,
    Format,
    Task,
)
from dedos_deploy.corpus.formats.options import SHARD_FRAMES
from dedos_deploy.label_files import unlabelled
from dedos_deploy.runtime.sinks.files import encode_picture


class WebDataset(Format):
    """`SPLIT-000000.tar`, …: members NAME.jpg, NAME.seg.png, NAME.json, and `classes.txt` beside them.

    A label map has the classes' lines in `classes.txt` from 0, as in label folders, and 255 where nothing is
    known; 16 bits and 65535 for more than 255 classes.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._tar: tarfile.TarFile | None = None
        self._shard_frames = task.settings.shard_frames or SHARD_FRAMES
        self._none_id = unlabelled(len(task.classes))

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        shard, place = divmod(frame.number, self._shard_frames)
        if place == 0:
            self._close()
            path = self.task.folder / f"{self.task.settings.split}-{shard:06d}.tar"
            self._tar = tarfile.open(path, "x")
        if picture.content is not None:
            self._member(frame.name + picture.suffix, picture.content)
        values = np.where(frame.labels == UNLABELLED, self._none_id, frame.labels)
        dtype = np.uint8 if self._none_id < UNLABELLED else np.uint16
        self._member(f"{frame.name}.seg.png", encode_picture(".png", values.astype(dtype)))
        height, width = frame.labels.shape
        known = {"key": frame.key, "width": width, "height": height, "margin": frame.margin}
        self._member(f"{frame.name}.json", json.dumps(known, ensure_ascii=False).encode())

    def finish(self) -> None:
        self._close()
        self.write_text("classes.txt", [one.name for one in self.task.classes])

    def _member(self, name: str, content: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
