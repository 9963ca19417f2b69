"""The verdict: both conditions, each alone, what cannot be measured, and force."""

from __future__ import annotations

import json
import time

import pytest

from dedos_deploy.calib.verdict import Accuracy, SideBySide, judge, side_by_side
from dedos_deploy.errors import BadInputError

FAST = SideBySide(1.0, 0.5, 2.0, 5)
SLOW = SideBySide(1.0, 0.9, 1.11, 5)
GOOD = Accuracy(agreement=0.995, images=8)


def test_both_conditions_hold() -> None:
    verdict = judge(GOOD, FAST)
    assert verdict.kept and not verdict.failed and not verdict.forced
    assert str(verdict) == "INT8 kept: 2.00x as fast, 99.50% of pixels keep their label"


@pytest.mark.parametrize(
    ("accuracy", "timing", "said"),
    [
        (GOOD, SLOW, "1.11x as fast, at least 1.15x is needed"),
        (Accuracy(0.98, 8), FAST, r"loses 2\.0 points \(pixels with another label\), at most 1 is"),
        (Accuracy(0.999, 8, 0.6, 0.585), FAST, r"loses 1\.5 points \(mean IoU\)"),
        (Accuracy(float("nan"), 8), FAST, "loses nan points"),
        (GOOD, None, "no engine of this target runs here"),
    ],
)
def test_each_condition_alone_decides_and_is_named(
    accuracy: Accuracy, timing: SideBySide | None, said: str
) -> None:
    verdict = judge(accuracy, timing)
    assert not verdict.kept and len(verdict.failed) == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(str(verdict))
    forced = judge(accuracy, timing, force=True)
    assert forced.kept and forced.forced and forced.failed == verdict.failed
    assert str(forced).startswith("INT8 forced")


def test_labels_decide_where_they_are_given() -> None:
    # Nearly every pixel moves, yet mean IoU does not: labels are the better judge.
    assert judge(Accuracy(0.5, 8, 0.6, 0.595), FAST).kept
    assert judge(Accuracy(0.5, 8, 0.6, 0.65), FAST).kept


def test_force_is_only_recorded_where_it_was_needed() -> None:
    assert not judge(GOOD, FAST, force=True).forced
    record = judge(GOOD, SLOW, force=True).to_dict()
    assert record["kept"] and record["forced"] and json.loads(json.dumps(record)) is not None


def test_both_run_equally_often_in_alternating_order() -> None:
    order: list[str] = []

    def fast() -> None:
        order.append("f")

    def slow() -> None:
        order.append("s")
        time.sleep(0.002)

    found = side_by_side(slow, fast, rounds=3)
    assert "".join(order) == "sf" + "sf" + "fs" + "sf"
    assert found.speedup > 1 and found.reference_s > found.candidate_s and found.rounds == 3
    with pytest.raises(BadInputError, match="at least one round"):
        side_by_side(slow, fast, rounds=0)
