"""What was proved about a bundle while it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dedos_deploy.export.int8 import Int8Report
from dedos_deploy.export.parity import ParityReport
from dedos_deploy.export.precision import PrecisionReport
from dedos_deploy.export.rtx import EngineFile
from dedos_deploy.export.text_tower import TextParity


@dataclass(frozen=True)
class ExportReport:
    """What was proved about a bundle; stored in it as report.json, without `path` and `size`."""

    path: Path
    """The bundle."""
    size: int
    """Bytes of the bundle."""
    parity: ParityReport
    precision: PrecisionReport
    text: TextParity
    fused_attention: int
    """Attention blocks rewritten for the cpu target."""
    engine: EngineFile | None
    """The key of the engine inside, with its size in bytes, None without one."""
    int8: Int8Report | None
    """How INT8 was made and judged, None where it was not asked for."""
    image_precision: str
    """Precision of the image graph, another than was asked for where the verdict is against
    INT8."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"bundle": str(self.path), "size": self.size, **self.facts()}

    def facts(self) -> dict[str, Any]:
        """Return what report.json holds."""
        engine = self.engine
        return {
            "parity": asdict(self.parity),
            "precision": asdict(self.precision),
            "text": asdict(self.text),
            "fused_attention": self.fused_attention,
            "engine": None if engine is None else {**asdict(engine.key), "size": engine.size},
            "int8": None if self.int8 is None else self.int8.to_dict(),
            "image_precision": self.image_precision,
            "warnings": list(self.warnings),
        }

    def with_size(self) -> ExportReport:
        """Return the report of the bundle that is there now."""
        path = self.path
        files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
        return replace(self, size=sum(item.stat().st_size for item in files))
