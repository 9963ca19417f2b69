"""Numbers for Prometheus, read from the cameras when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dedos_deploy.runtime.flow import CameraReport, SourceState
from dedos_deploy.runtime.flow.stages import STAGES, STALL_S
from dedos_deploy.runtime.serving.controls import Controls


class CameraCollector:
    """A collector for prometheus_client."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def collect(self) -> Iterable[Any]:
        """Yield all metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ["camera"]
        frames = CounterMetricFamily("dedos_frames", "Frames labelled", labels=labels)
        read = CounterMetricFamily(
            "dedos_frames_read", "Frames read from the source", labels=labels
        )
        again = CounterMetricFamily(
            "dedos_reconnects", "Times a source was opened again", labels=labels
        )
        drops = CounterMetricFamily(
            "dedos_drops", "Frames lost, by cause", labels=[*labels, "cause"]
        )
        state = GaugeMetricFamily(
            "dedos_source_state", "1 for the state that a source is in", labels=[*labels, "state"]
        )
        version = GaugeMetricFamily(
            "dedos_vocabulary_version", "Version of the words", labels=labels
        )
        rate = GaugeMetricFamily("dedos_fps", "Frames labelled per second, lately", labels=labels)
        age = GaugeMetricFamily(
            "dedos_age_seconds", "From capture to result, lately", labels=[*labels, "quantile"]
        )
        latency = GaugeMetricFamily(
            "dedos_latency_seconds", "From frame to label map, lately", labels=[*labels, "quantile"]
        )
        coverage = GaugeMetricFamily(
            "dedos_coverage", "Mean part of the pixels per class", labels=[*labels, "class"]
        )
        for report in self._controls.reports():
            name = [report.name]
            frames.add_metric(name, report.results.frames)
            read.add_metric(name, report.source.frames)
            again.add_metric(name, report.source.reconnects)
            for cause, count in report.results.drops.items():
                drops.add_metric([*name, cause], count)
            for one in SourceState:
                state.add_metric([*name, one.value], float(report.source.state is one))
            version.add_metric(name, self._controls.view(report.name).vocabulary_version)
            rate.add_metric(name, report.results.fps_now)
            _quantiles(age, report, "age")
            _quantiles(latency, report, "latency")
            for word, part in report.results.coverage.items():
                coverage.add_metric([*name, word], part)
        stalled = GaugeMetricFamily(
            "dedos_stalled_stages", f"Calls that last for over {STALL_S:g} s now", labels=["stage"]
        )
        stuck = Counter(call.stage for call in self._controls.stalled())
        for stage in STAGES:
            stalled.add_metric([stage], stuck[stage])
        return [stalled, frames, read, again, drops, state, version, rate, age, latency, coverage]


def _quantiles(family: Any, report: CameraReport, what: str) -> None:
    for quantile, percent in (("0.5", "p50"), ("0.99", "p99")):
        value = getattr(report.results, f"{what}_{percent}_ms") / 1e3
        family.add_metric([report.name, quantile], value)
