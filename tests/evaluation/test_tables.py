"""The paper's tables: every row, values that the text names, and places among them."""

from __future__ import annotations

import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.tables import HERE, paper_tables, placed


def test_every_row_and_column_is_there() -> None:
    first, second = paper_tables()["Table 1"], paper_tables()["Table 2"]
    assert first.columns == ("PC-459", "A-150", "PC-59", "PAS-20", "PAS-20b")
    assert (len(first.rows), len(second.rows)) == (16, 13)
    assert all(set(row.scores) == set(first.columns) for row in first.rows)
    assert all(set(row.scores) == set(second.columns) for row in second.rows)
    dashes = sum(value is None for row in first.rows for value in row.scores.values())
    assert dashes == 15 and all(None not in row.scores.values() for row in second.rows)
    assert sum(bool(row.additional) for row in first.rows) == 4
    assert [row.model for row in second.rows[:2]] == ["Random (LB)", "Best supervised (UB)"]


def test_values_that_the_text_of_the_paper_names() -> None:
    rows = {(row.model, row.vlm): row.scores for row in paper_tables()["Table 1"].rows}
    assert rows["DEDOS (Ours)", "CLIP ViT-L/14"]["PC-459"] == 25.6
    assert rows["CAT-Seg", "CLIP ViT-L/14"]["PAS-20b"] == 82.5
    assert rows["OpenSeg", "ALIGN"]["PAS-20"] is None
    domains = {(row.model, row.vlm): row.scores for row in paper_tables()["Table 2"].rows}
    assert domains["DEDOS (Ours)", "CLIP ViT-B/16"]["Mean"] == 35.9


def test_two_kinds_of_means_stand_in_one_column() -> None:
    """MESS averages over its 22 sets (6, 5, 4, 4 and 3 of a domain); DEDOS's rows do over domains."""
    for row in paper_tables()["Table 2"].rows:
        scores = [s for name, s in row.scores.items() if name != "Mean" and s is not None]
        by_sets = sum(s * n for s, n in zip(scores, (6, 5, 4, 4, 3), strict=True)) / 22
        by_domains = sum(scores) / 5
        expected = by_domains if row.model.startswith("DEDOS") else by_sets
        assert expected == pytest.approx(row.scores["Mean"], abs=0.11), row.label


def test_a_result_finds_its_place() -> None:
    found = placed("A-150", 0.331)
    assert found is not None and (found.table, found.place) == ("Table 1", 5)
    names = [name for name, _ in found.ranked]
    assert names[3:6] == ["DEDOS (Ours), CLIP ViT-B/16", HERE, "EBSeg, CLIP ViT-L/14"]
    best = placed("PAS-20b", 1.0)
    assert best is not None and best.place == 1 and best.rows()[1] == ("1", HERE, "100.0")
    equal = placed("PC-459", 0.2560001)
    assert equal is not None and equal.place == 1
    assert equal.to_dict()["ranked"][0] == [HERE, pytest.approx(25.60001)]
    domain = placed("Engineering", 0.2)
    assert domain is not None and domain.table == "Table 2"
    assert placed("Cityscapes-19", 0.5) is None
    with pytest.raises(BadInputError, match=r"miou_present is 33.1, but lies in \[0, 1\]"):
        placed("A-150", 33.1)
