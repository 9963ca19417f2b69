"""What became of one camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dedos_deploy.runtime.flow.source_state import FeedReport
from dedos_deploy.runtime.flow.statistics import Statistics


@dataclass(frozen=True)
class CameraReport:
    """How a camera is."""

    name: str
    source: FeedReport
    """How its source is."""

    results: Statistics
    """Numbers of what was labelled, `drops` of all causes included."""

    outputs: dict[str, str | None]
    """The error that ended an output, or None, by the address of the output."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "state": self.source.state.value,
            "since_s": self.source.since_s,
            "read": self.source.frames,
            "reconnects": self.source.reconnects,
            "error": self.source.error,
            **self.results.to_dict(),
            "outputs": self.outputs,
        }
