"""COCO panoptic: a PNG of segment ids per picture, and what each segment is in one JSON file."""

from __future__ import annotations

from typing import Any

import numpy as np

from dedos_deploy.corpus.formats.coco import categories, image_entry
from dedos_deploy.corpus.formats.contract import ExportFrame, ExportPicture, Format, Task
from dedos_deploy.corpus.formats.joined import JsonLists
from dedos_deploy.corpus.formats.objects import objects_of
from dedos_deploy.runtime.sinks.files import encode_picture


class CocoPanoptic(Format):
    """A segment is an object; ids are R + 256 G + 65536 B, and 0 is what is unlabelled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._masks = f"annotations/panoptic_{task.settings.split}"
        self._json = JsonLists(task.folder / f"{self._masks}.json", "images", "annotations")

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        name = self.place(f"images/{self.task.settings.split}/{frame.name}", picture)
        self._json.add("images", image_entry(frame, name))
        segments = np.zeros(frame.labels.shape, np.uint32)
        found = []
        for number, one in enumerate(objects_of(frame.labels, self.task.classes), 1):
            left, top, right, bottom = one.box_xyxy
            segments[top:bottom, left:right][one.mask] = number
            found.append(
                {
                    "id": number,
                    "category_id": one.class_index + 1,
                    "area": one.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
        self._annotate(frame, segments, found)

    def finish(self) -> None:
        listed = [
            entry | {"color": list(one.colour_rgb)}
            for entry, one in zip(categories(self.task), self.task.classes, strict=True)
        ]
        self._json.finish({"info": {"description": self.task.made_by}, "categories": listed})

    def _annotate(
        self, frame: ExportFrame, segments: np.ndarray[Any, Any], found: list[dict[str, Any]]
    ) -> None:
        parts_bgr = np.stack([segments >> 16, segments >> 8 & 255, segments & 255], axis=-1)
        self.write(
            f"{self._masks}/{frame.name}.png", encode_picture(".png", parts_bgr.astype(np.uint8))
        )
        self._json.add(
            "annotations",
            {
                "image_id": frame.number + 1,
                "file_name": f"{frame.name}.png",
                "segments_info": found,
            },
        )
