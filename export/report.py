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
from dedos_deploy.export.trust import TrustReport


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
    batches: tuple[ParityReport, ...] = ()
    """What the gate saw of the graphs for more frames per run than one."""
    trust: TrustReport | None = None
    """What statistics were made of, None without them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"bundle": str(self.path), "size": self.size, **self.facts()}

    def facts(self) -> dict[str, Any]:
        """Return what report.json holds."""
        facts, engine = asdict(self), self.engine
        del facts["path"], facts["size"]
        if self.trust is None:
            del facts["trust"]
        if engine is not None:
            facts["engine"] = {**asdict(engine.key), "size": engine.size}
        if self.int8 is not None:
            facts["int8"] = self.int8.to_dict()
        return facts

    def with_size(self) -> ExportReport:
        """Return the report of the bundle that is there now."""
        path = self.path
        files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
        return replace(self, size=sum(item.stat().st_size for item in files))
