"""Running a bundle: sources, the segmenter, sinks, and the flow between them."""

from __future__ import annotations

from dedos_deploy.runtime.engine import Engine, EngineOptions, open_engine
from dedos_deploy.runtime.flow.pipeline import Pipeline, run
from dedos_deploy.runtime.frames import Frame, Outcome, Source
from dedos_deploy.runtime.overlay import OverlayPainter
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import Segmenter, SegmenterView
from dedos_deploy.runtime.sinks import Sink, SinkOptions, StopRequested, open_sink
from dedos_deploy.runtime.sources import connect, open_source
from dedos_deploy.runtime.statistics import Statistics

if __name__ == "runtime":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.runtime; this folder is a room of that package")

__all__ = [
    "Engine",
    "EngineOptions",
    "Frame",
    "Outcome",
    "OverlayPainter",
    "Pipeline",
    "Segmentation",
    "Segmenter",
    "SegmenterView",
    "Sink",
    "SinkOptions",
    "Source",
    "Statistics",
    "StopRequested",
    "connect",
    "open_engine",
    "open_sink",
    "open_source",
    "run",
]
