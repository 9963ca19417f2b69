"""YOLO segmentation, as Ultralytics reads it: a text file of polygons per picture, and `data.yaml`."""

from __future__ import annotations

import json

from dedos_deploy.corpus.formats.contract import ExportFrame, ExportPicture, Format
from dedos_deploy.corpus.formats.outlines import centre_outlines


class YoloSeg(Format):
    """A line per connected region: the class, and points as parts of the picture's width and height."""

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        split = self.task.settings.split
        self.place(f"images/{split}/{frame.name}", picture)
        height, width = frame.labels.shape
        lines = []
        for outline in centre_outlines(frame, self.task):
            points = outline.points_xy / (width, height)
            numbers = " ".join(f"{value:.6f}" for value in points.ravel().tolist())
            lines.append(f"{outline.class_index} {numbers}")
        self.write_text(f"labels/{split}/{frame.name}.txt", lines)

    def finish(self) -> None:
        split = self.task.settings.split
        # A trainer asks for both; who has another part for val names it there.
        parts = dict.fromkeys(["train", "val", split], f"images/{split}")
        # A string of JSON is one of YAML, but for its escapes of letters beyond 16 bits, which are two.
        names = [
            f"  {place}: {json.dumps(one.name, ensure_ascii=False)}"
            for place, one in enumerate(self.task.classes)
        ]
        self.write_text(
            "data.yaml",
            [f"{part}: {folder}" for part, folder in parts.items()] + ["names:", *names],
        )
