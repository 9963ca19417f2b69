"""Many cameras on one engine: a thread per source, fair turns, and health that can be asked for."""

from dedos_deploy.runtime.cameras.feed import Feed, FeedOptions, FeedReport, SourceState
from dedos_deploy.runtime.cameras.fleet import Camera, CameraReport, Fleet

__all__ = [
    "Camera",
    "CameraReport",
    "Feed",
    "FeedOptions",
    "FeedReport",
    "Fleet",
    "SourceState",
]
