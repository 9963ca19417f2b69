"""Several cameras on one engine, by the names that programs know; see `dedos_deploy.runtime.flow`."""

from dedos_deploy.runtime.flow import (
    Camera,
    CameraReport,
    Feed,
    FeedOptions,
    FeedReport,
    Fleet,
    SourceState,
)

__all__ = [
    "Camera",
    "CameraReport",
    "Feed",
    "FeedOptions",
    "FeedReport",
    "Fleet",
    "SourceState",
]
