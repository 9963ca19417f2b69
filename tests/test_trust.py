"""Statistics of learned frames: trust of frames like them and unlike them, and the file that keeps them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from dedos_deploy.errors import BadBundleError, BadInputError, UnsupportedVersionError
from dedos_deploy.spec import TRUST_LINE
from dedos_deploy.trust import (
    ALARMS,
    Kind,
    TrustStatistics,
    doubt_of,
    fit_trust,
    trust_from_bytes,
    trust_to_bytes,
)

WIDTHS = (12, 5)


def frames(kind: int, count: int, seed: int) -> NDArray[np.float32]:
    """Features of frames of a kind that lie about its own place, in four directions of its own."""
    own, rng = np.random.default_rng(kind), np.random.default_rng([kind, seed])
    middle, directions = own.normal(0, 5, sum(WIDTHS)), own.normal(0, 1, (4, sum(WIDTHS)))
    rows = middle + rng.normal(0, 1, (count, 4)) @ directions
    return np.asarray(rows + rng.normal(0, 0.1, rows.shape), np.float32)


def kinds(*counts: int) -> list[Kind]:
    return [
        Kind(f"kind {number}", f"{number:064x}", frames(number, count, 0))
        for number, count in enumerate(counts)
    ]


@pytest.fixture(scope="module")
def statistics() -> TrustStatistics:
    return fit_trust(kinds(120, 60), WIDTHS)


def trusts(statistics: TrustStatistics, rows: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([statistics.of(np.asarray(row, np.float32)) for row in rows])


@pytest.mark.parametrize("kind", [0, 1])
def test_new_frames_of_a_kind_are_trusted(statistics: TrustStatistics, kind: int) -> None:
    found = trusts(statistics, frames(kind, 400, 1))
    assert np.mean(found < TRUST_LINE) <= 2 * ALARMS and np.median(found) == 1.0
    assert found.min() >= 0 and found.max() <= 1


def test_other_frames_are_not(statistics: TrustStatistics) -> None:
    between = (frames(0, 50, 2) + frames(1, 50, 2)) / 2
    other = frames(7, 50, 0)
    for rows in (between, other, np.zeros((1, sum(WIDTHS)))):
        assert trusts(statistics, rows).max() < TRUST_LINE
    broken = frames(0, 1, 3)[0]
    broken[3] = np.nan
    assert statistics.of(broken) == 0.0


def test_one_block_that_is_odd_is_enough(statistics: TrustStatistics) -> None:
    rows = frames(0, 40, 4)
    rows[:, WIDTHS[0] :] = frames(1, 40, 4)[:, WIDTHS[0] :] + 40
    assert trusts(statistics, rows).max() == 0.0


def test_alarms_are_few_on_the_learned_frames_themselves(statistics: TrustStatistics) -> None:
    every = np.concatenate([kind.pooled for kind in kinds(120, 60)])
    assert np.mean(trusts(statistics, every) < TRUST_LINE) <= ALARMS


def test_trust_is_the_part_of_learned_frames_that_are_farther(statistics: TrustStatistics) -> None:
    levels = np.linspace(0, 1, len(statistics.quantiles))
    for part, wanted in ((0.99, 0.1), (0.95, TRUST_LINE), (0.9, 1.0), (0.2, 1.0)):
        at = np.interp(part, levels, statistics.quantiles)
        nearer = np.interp(at, statistics.quantiles, levels)
        assert min(1.0, TRUST_LINE * (1 - nearer) / ALARMS) == pytest.approx(wanted, abs=0.02)


def test_a_handful_of_frames_of_one_kind_is_enough() -> None:
    statistics = fit_trust(kinds(16), WIDTHS)
    assert trusts(statistics, frames(7, 20, 0)).max() < TRUST_LINE


def test_a_feature_that_is_still_for_most_of_the_time_does_not_blind() -> None:
    """As a channel that only the sky wakes, which is to be seen at the end of a walk."""
    (kind,) = kinds(100)
    kind.pooled[:80, 3] = 0.0
    statistics = fit_trust([kind], WIDTHS)
    new, other = frames(0, 100, 1), frames(0, 50, 1)
    other[:, : WIDTHS[0]] = frames(7, 50, 0)[:, : WIDTHS[0]]
    assert trusts(statistics, other).max() < TRUST_LINE
    assert np.mean(trusts(statistics, new) < TRUST_LINE) <= 2 * ALARMS


def test_a_feature_that_hardly_moves_is_not_all_that_counts() -> None:
    (kind,) = kinds(100)
    kind.pooled[:, 3] = 0.0
    statistics = fit_trust([kind], WIDTHS)
    new = frames(0, 200, 1)
    # A thousandth of what other features vary by, and as much as they do.
    new[:100, 3], new[100:, 3] = 2e-3, 2.0
    found = trusts(statistics, new)
    assert np.mean(found[:100] < TRUST_LINE) <= 2 * ALARMS and found[100:].max() < TRUST_LINE


def test_frames_of_which_nothing_can_be_learned_are_refused() -> None:
    one, other = kinds(20, 20)
    one.pooled[:, : WIDTHS[0]] = 1.0
    fit_trust([one, other], WIDTHS)  # the other kind moves
    with pytest.raises(
        BadInputError, match="all frames of 'kind 0' look the same.*something moves"
    ):
        fit_trust([one], WIDTHS)
    other.pooled[7, 2] = np.inf
    with pytest.raises(
        BadInputError, match="frame 7 of 'kind 1' .* no numbers; export in a higher"
    ):
        fit_trust([one, other], WIDTHS)


def test_doubt_is_a_sentence_below_the_line() -> None:
    assert doubt_of(None) is None and doubt_of(TRUST_LINE) is None
    said = doubt_of(0.12)
    assert said is not None and "trust 0.12" in said and "doubt its labels" in said


def test_the_file_gives_the_same_trust(statistics: TrustStatistics) -> None:
    content = trust_to_bytes(statistics)
    again = trust_from_bytes(content, width=sum(WIDTHS), name="the file")
    rows = np.concatenate([frames(0, 20, 5), frames(7, 5, 0)])
    np.testing.assert_array_equal(trusts(again, rows), trusts(statistics, rows))
    assert (again.frames, again.data_sha256) == ((120, 60), (f"{0:064x}", f"{1:064x}"))


def metadata_of(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.scale", lambda values: values * 0, "0.scale has a value that is not above 0"),
        ("1.rest", lambda values: -values, "1.rest has a value that is not above 0"),
        ("1.mean", lambda values: values * np.nan, "1.mean has a value that is no number"),
        ("0.mean", lambda values: values[:, :-1], r"0.mean is \[2, 11\], not \[2, 12\]"),
        ("0.scale", lambda values: values[:1].reshape(()), r"0.scale is \[\], not \[1\]"),
        ("0.basis", lambda values: values.astype(np.float32), "0.basis is float32"),
        ("0.limit", lambda values: values.repeat(2), r"0.limit is \[2\], not \[1\]"),
        ("quantiles", lambda values: values[::-1].copy(), "quantiles are not 101 growing"),
        ("quantiles", lambda values: values[:50], "quantiles are not 101 growing"),
        ("2.scale", None, "it holds the tensors"),
    ],
)
def test_damage_is_named(statistics: TrustStatistics, name: str, change: Any, message: str) -> None:
    content = trust_to_bytes(statistics)
    tensors = load(content)
    tensors[name] = np.ones(3, np.float32) if change is None else change(tensors[name])
    damaged = save(tensors, metadata=metadata_of(content))
    with pytest.raises(BadBundleError, match=message):
        trust_from_bytes(damaged, width=sum(WIDTHS), name="the file")


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"format": "dedos-vocabulary"}, BadBundleError, "has no format 'dedos-trust'"),
        (
            {"version": "2"},
            UnsupportedVersionError,
            "its version is 2, but .* reads up to 1; install",
        ),
        ({"version": "x"}, BadBundleError, "has no format"),
        ({"frames": "[1]"}, BadBundleError, "does not say what it was made of"),
        ({"data_sha256": "["}, BadBundleError, "does not say what it was made of"),
    ],
)
def test_another_file_is_refused(
    statistics: TrustStatistics, said: dict[str, str], error: type[Exception], message: str
) -> None:
    content = trust_to_bytes(statistics)
    other = save(load(content), metadata={**metadata_of(content), **said})
    with pytest.raises(error, match=message):
        trust_from_bytes(other, width=sum(WIDTHS), name="the file")


def test_other_graphs_and_cut_files_are_refused(statistics: TrustStatistics) -> None:
    content = trust_to_bytes(statistics)
    with pytest.raises(BadBundleError, match="of 17 features, and the graph gives 18"):
        trust_from_bytes(content, width=18, name="the file")
    with pytest.raises(BadBundleError, match="the file is damaged"):
        trust_from_bytes(content[:-3], width=17, name="the file")
