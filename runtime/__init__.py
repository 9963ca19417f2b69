"""Running a bundle: sources, the segmenter, sinks, and the flow between them."""

from __future__ import annotations

from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.runtime.engines.opening import open_engine
from dedos_deploy.runtime.examples import LearnedWord
from dedos_deploy.runtime.explaining import Candidate
from dedos_deploy.runtime.flow.pipeline import Pipeline, run
from dedos_deploy.runtime.flow.statistics import Statistics
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.ground import GroundCamera, GroundGrid, OccupancyGrid
from dedos_deploy.runtime.nv12 import Nv12Frame
from dedos_deploy.runtime.pending_segmentation import PendingSegmentation
from dedos_deploy.runtime.regions import Polygon, Region
from dedos_deploy.runtime.results import DeviceSegmentation
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.segmenter_view import SegmenterView
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions, StopRequested
from dedos_deploy.runtime.sinks.opening import open_sink
from dedos_deploy.runtime.sinks.overlay import OverlayPainter
from dedos_deploy.runtime.sources.contract import Outcome, Source
from dedos_deploy.runtime.sources.opening import connect, open_source

if __name__ == "runtime":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.runtime; this folder is a room of that package")

__all__ = [
    "Candidate",
    "DeviceSegmentation",
    "Engine",
    "EngineOptions",
    "Frame",
    "GroundCamera",
    "GroundGrid",
    "LearnedWord",
    "Nv12Frame",
    "OccupancyGrid",
    "Outcome",
    "OverlayPainter",
    "PendingSegmentation",
    "Pipeline",
    "Polygon",
    "Region",
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
