"""A run of one source that is open, as a program calls it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.flow.feed_options import LENT
from dedos_deploy.runtime.flow.run import Run, RunOptions
from dedos_deploy.runtime.flow.stages import StageBoard
from dedos_deploy.runtime.flow.statistics import Meter, Statistics
from dedos_deploy.runtime.flow.turns import AnySegmenter, Camera
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkErrors
from dedos_deploy.runtime.sources.contract import Source

OnResult = Callable[[Frame, Segmentation], None]


class Pipeline:
    """Labels a source into sinks: a Run of one that ends with the first error.

    Whatever fails, the source, the segmenter, a sink (unless told otherwise) or the callback, everything
    stops and the exception leaves `run`; results from before it are delivered first. Source, segmenter
    and sinks stay open: who opened them closes them. Those `left_behind`, and a segmenter with
    `engine_is_stuck`, are still at work after a stop, which does not wait for them, and cannot be closed.
    """

    def __init__(
        self,
        source: Source,
        segmenter: AnySegmenter,
        sinks: Sequence[Sink] = (),
        *,
        stop: threading.Event | None = None,
        on_result: OnResult | None = None,
        max_frames: int | None = None,
        sink_errors: SinkErrors = "stop",
        stages: StageBoard | None = None,
    ) -> None:
        """Prepare a run.

        stop: set it from anywhere to end the run after the frame in work; on_result: called on the
        caller's thread with every frame and its result, may raise StopRequested; max_frames: end after
        so many results; sink_errors: `continue` gives a sink that failed no more results, says so once
        and goes on; `sink_failures` has its error; stages: told what every thread is busy with.
        """
        if max_frames is not None and max_frames < 1:
            raise BadInputError(f"max_frames must be at least 1, not {max_frames}")
        self._source = source
        camera = Camera(
            source.source_id, lambda: source, segmenter, sinks, live=source.live, feed=LENT
        )
        call = None if on_result is None else lambda _, frame, result: on_result(frame, result)
        self._run = Run(
            [camera],
            RunOptions(max_frames, "raise", sink_errors),
            stop=stop,
            on_result=call,
            stages=stages,
        )

    def statistics(self) -> Statistics:
        """Return the numbers so far, from any thread."""
        reports = self._run.reports()
        results = reports[0].results if reports else Meter().snapshot(drops={}, outcome="")
        return replace(results, outcome=self._run.outcome)

    def run(self) -> Statistics:
        """Run until the source ends, a stop is asked for, or something fails; call it once."""
        self._run.run()
        return self.statistics()

    @property
    def sink_failures(self) -> dict[str, Exception]:
        """Errors of the sinks that ended early, by address."""
        return self._run.sink_failures

    @property
    def left_behind(self) -> tuple[Closing, ...]:
        """Sinks, and the source, that are still at work."""
        source = (self._source,) if self._run.sources_left else ()
        return (*self._run.left_behind, *source)

    @property
    def engine_is_stuck(self) -> bool:
        """Whether the segmenter is still at work."""
        return self._run.engine_is_stuck


def run(
    source: Source,
    segmenter: AnySegmenter,
    sinks: Sequence[Sink] = (),
    *,
    stop: threading.Event | None = None,
    on_result: OnResult | None = None,
    max_frames: int | None = None,
    sink_errors: SinkErrors = "stop",
    stages: StageBoard | None = None,
) -> Statistics:
    """Label `source` into `sinks` and return the statistics; see Pipeline.

    with open_source("drive.mp4") as source, open_sink("overlay.mp4") as sink:
        run(source, segmenter, [sink])
    """
    pipeline = Pipeline(
        source,
        segmenter,
        sinks,
        stop=stop,
        on_result=on_result,
        max_frames=max_frames,
        sink_errors=sink_errors,
        stages=stages,
    )
    return pipeline.run()
