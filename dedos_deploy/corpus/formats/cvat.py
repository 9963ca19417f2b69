"""CVAT for images 1.1: `annotations.xml` with masks or polygons, beside `images`."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from dedos_deploy.corpus.formats.contract import ExportFrame, ExportPicture, Format, Task
from dedos_deploy.corpus.formats.joined import Pieces
from dedos_deploy.corpus.formats.objects import objects_of
from dedos_deploy.corpus.formats.outlines import edge_outlines
from dedos_deploy.corpus.formats.run_lengths import run_lengths


class Cvat(Format):
    """A shape per object, or a polygon per connected region; smaller ones lie on top."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._path = task.folder / "annotations.xml"
        self._images = Pieces(self._path, "images")

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        name = self.place(f"images/{frame.name}", picture).partition("/")[2]
        height, width = frame.labels.shape
        shapes = self._polygons(frame) if self.task.settings.polygons else self._masks(frame)
        self._images.add(
            f'  <image id="{frame.number}" name={quoteattr(name)} width="{width}" height="{height}">\n'
            + "".join(f"    {shape}\n" for shape in shapes)
            + "  </image>\n"
        )

    def finish(self) -> None:
        with self._path.open("xb") as file:
            file.write(self._head().encode())
            self._images.move_to(file)
            file.write(b"</annotations>\n")

    def _masks(self, frame: ExportFrame) -> Iterator[str]:
        for order, one in enumerate(objects_of(frame.labels, self.task.classes)):
            left, top, right, bottom = one.box_xyxy
            # Rows of the box one after the other, beginning with what is not of the mask.
            runs = ", ".join(map(str, run_lengths(one.mask.ravel()).tolist()))
            yield (
                f'<mask {self._common(one.class_index, order)} rle="{runs}" left="{left}" top="{top}" '
                f'width="{right - left}" height="{bottom - top}"></mask>'
            )

    def _polygons(self, frame: ExportFrame) -> Iterator[str]:
        for order, outline in enumerate(edge_outlines(frame, self.task)):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points_xy.tolist())
            yield f'<polygon {self._common(outline.class_index, order)} points="{points}"></polygon>'

    def _common(self, class_index: int, order: int) -> str:
        label = quoteattr(self.task.classes[class_index].name)
        return f'label={label} source="auto" occluded="0" z_order="{order}"'

    def _head(self) -> str:
        labels = "".join(
            f"        <label><name>{escape(one.name)}</name>"
            f"<color>#{bytes(one.colour_rgb).hex()}</color><type>any</type>"
            "<attributes></attributes></label>\n"
            for one in self.task.classes
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            f"  <meta>\n    <task>\n      <name>{escape(self.task.made_by)}</name>\n"
            f"      <size>{self._images.count}</size>\n      <mode>annotation</mode>\n"
            f"      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n"
        )
