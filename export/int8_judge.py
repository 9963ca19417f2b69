"""What a plan of INT8 loses: its graph beside the float one, each in one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dedos_deploy.calib.plan import QuantizationPlan
from dedos_deploy.calib.verdict import Accuracy, SideBySide, Verdict, judge, side_by_side
from dedos_deploy.closing import Closing
from dedos_deploy.export.graph import save_graph
from dedos_deploy.export.int8_labels import PLAN_IMAGES, LabelMeasure
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.spec import MIN_AGREEMENT

GATE_MARGIN = 0.005
"""What the checked frames must agree beyond the parity gate, which tries other words, too."""

Scores = NDArray[np.float32]
Note = Callable[[str], None]


class Judge(Closing):
    """Measures one plan after the other; of those within the budget the last one stays open."""

    def __init__(
        self,
        reference: OnnxEngine,
        quantized: Callable[[QuantizationPlan], onnx.ModelProto],
        folder: Path,
        frames: Sequence[Picture],
        text: NDArray[np.float32],
        *,
        miou: LabelMeasure | None,
        note: Note,
    ) -> None:
        """reference: the float graph's engine, which stays the caller's; quantized: a plan's graph
        for ONNX Runtime; folder: for its files while it is open; frames: uint8 [H0, W0, 3] that did
        not calibrate; text: float32 [K, D]; miou: None without labels; note: told what goes on.
        """
        self._reference, self._quantized, self._folder = reference, quantized, folder
        self._frames, self._text, self._miou, self._note = frames, text, miou, note
        self._expected = [self._scores(reference, frame).copy() for frame in frames]
        self._known = None if miou is None else miou(reference, most=PLAN_IMAGES)
        self._kept = ExitStack()
        self._candidate: tuple[tuple[str, ...], OnnxEngine] | None = None

    def loss(self, plan: QuantizationPlan, *, budget: float) -> float:
        """Return what a plan loses; its engine stays open if that is within the budget."""
        self._note(f"checking with {len(plan.sites)} layers in INT8")
        with ExitStack() as trial:
            engine = trial.enter_context(self._opened(plan))
            lost = self._lost(engine)
            if lost <= budget:
                self.close()
                self._kept, self._candidate = trial.pop_all(), (plan.sites, engine)
        return lost

    def verdict(self, chosen: QuantizationPlan, *, timed: bool, force: bool) -> Verdict:
        """Return the verdict on a plan; timed: whether ONNX Runtime's speed is the target's."""
        candidate = self._engine(chosen)
        self._note("comparing speed")
        timing: SideBySide | None = None
        if timed:
            frame = self._frames[0]
            timing = side_by_side(
                lambda: self._scores(self._reference, frame), lambda: self._scores(candidate, frame)
            )
        agreement = self._agreement(candidate)
        found: tuple[float, float] | tuple[None, None] = (None, None)
        if self._miou is not None:
            self._note("comparing mean IoU")
            found = self._miou(self._reference), self._miou(candidate)
        return judge(Accuracy(agreement, len(self._frames), *found), timing, force=force)

    def close(self) -> None:
        """Close the engine that is open."""
        self._candidate = None
        self._kept.close()

    def _engine(self, plan: QuantizationPlan) -> OnnxEngine:
        """Return the engine of a plan: the one that is open, unless it is another plan's."""
        if self._candidate is None or self._candidate[0] != plan.sites:
            self.close()
            self._candidate = plan.sites, self._kept.enter_context(self._opened(plan))
        return self._candidate[1]

    @contextmanager
    def _opened(self, plan: QuantizationPlan) -> Iterator[OnnxEngine]:
        path = self._folder / f"int8_{len(plan.sites)}.onnx"
        files = save_graph(self._quantized(plan), path, external=True)
        try:
            with OnnxEngine(files[0], self._reference.spec) as engine:
                yield engine
        finally:
            for file in files:
                file.unlink()

    def _lost(self, engine: OnnxEngine) -> float:
        agreement = self._agreement(engine)
        if self._miou is None or self._known is None:
            return 1.0 - agreement
        if agreement < MIN_AGREEMENT["int8"] + GATE_MARGIN:
            return 1.0  # The parity gate would refuse it, whatever the labels say.
        return max(0.0, self._known - self._miou(engine, most=PLAN_IMAGES))

    def _agreement(self, engine: OnnxEngine) -> float:
        """Return the part of the pixels that have the float graph's label."""
        shares = [
            label_agreement(known, self._scores(engine, frame), frame.shape[:2])
            for frame, known in zip(self._frames, self._expected, strict=True)
        ]
        return float(np.mean(shares))

    def _scores(self, engine: OnnxEngine, frame: Picture) -> Scores:
        valid = np.ones(len(self._text), np.float32)
        inputs: dict[str, NDArray[Any]] = {"image": frame[None], "text": self._text, "valid": valid}
        scores: Scores = engine.infer(inputs)["scores"][0]
        return scores
