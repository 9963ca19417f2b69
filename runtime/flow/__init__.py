"""From sources to sinks: one run for one source or many, with fair turns, health and reports."""

from dedos_deploy.runtime.flow.feed import Feed
from dedos_deploy.runtime.flow.feed_options import FeedOptions, Reconnect
from dedos_deploy.runtime.flow.pipeline import Pipeline, run
from dedos_deploy.runtime.flow.report import CameraReport
from dedos_deploy.runtime.flow.run import Run, RunOptions
from dedos_deploy.runtime.flow.source_state import FeedReport, SourceState
from dedos_deploy.runtime.flow.turns import Camera

__all__ = [
    "Camera",
    "CameraReport",
    "Feed",
    "FeedOptions",
    "FeedReport",
    "Pipeline",
    "Reconnect",
    "Run",
    "RunOptions",
    "SourceState",
    "run",
]
