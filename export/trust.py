"""Statistics of the frames that a model can be trusted on, by the graph that is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.calib.selection import CalibrationFrames, calibration_frames
from dedos_deploy.errors import BadInputError
from dedos_deploy.export.options import ExportOptions
from dedos_deploy.runtime.engines.tensors import Infer, Tensors
from dedos_deploy.runtime.uri import published_name
from dedos_deploy.spec import GraphSpec
from dedos_deploy.trust import Kind, TrustStatistics, fit_trust

TRUST_FRAMES = 128
"""Most frames of each kind."""


@dataclass(frozen=True)
class TrustReport:
    """What statistics were made of."""

    frames: dict[str, int]
    """Number of frames, by what the place is called that they came from (`published_name`)."""


def trust_frames(options: ExportOptions, spec: GraphSpec) -> list[CalibrationFrames]:
    """Return the frames of each kind at the network size, in order of time.

    Raises BadInputError for too few usable ones and for the same ones twice, SourceError for a source that
    does not open.
    """
    size_hw = (spec.height, spec.width)
    found = [
        calibration_frames(place, size_hw=size_hw, count=TRUST_FRAMES) for place in options.trust
    ]
    sources: dict[str, str] = {}
    for kind in found:
        if kind.data_sha256 in sources:
            raise BadInputError(
                f"--trust has the same frames twice, of {sources[kind.data_sha256]!r} and of "
                f"{kind.source!r}; give each kind of scene once"
            )
        sources[kind.data_sha256] = kind.source
    return found


def measure_trust(
    infer: Infer, spec: GraphSpec, widths: Sequence[int], kinds: Sequence[CalibrationFrames]
) -> tuple[TrustStatistics, TrustReport]:
    """Return the statistics of frames by what a graph gives of them.

    infer: runs the deployed graph of `spec` for one frame; widths: of the blocks of its features; kinds:
    of `trust_frames`.
    """
    # Words have no part in the features: any row does.
    row = np.zeros((1, spec.text_width), np.float32)
    row[0, 0] = 1

    def pooled(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        inputs: Tensors = {"image": frame[None], "text": row, "valid": np.ones(1, np.float32)}
        return np.array(infer(inputs)["pooled"][0], np.float32)

    found = [
        Kind(name, kind.data_sha256, np.stack([pooled(frame) for frame in kind.frames]))
        for name, kind in zip(_names(kinds), kinds, strict=True)
    ]
    return fit_trust(found, widths), TrustReport({one.source: len(one.pooled) for one in found})


def _names(kinds: Sequence[CalibrationFrames]) -> list[str]:
    """Return what each kind is called in the bundle, no two alike."""
    names: list[str] = []
    for kind in kinds:
        name, number = published_name(kind.source), 1
        while (told := name if number == 1 else f"{name} ({number})") in names:
            number += 1
        names.append(told)
    return names
