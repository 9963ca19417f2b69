"""Tables 1 and 2 of the paper as printed, and where a result of one's own would stand in them.

In Table 2 the column Mean holds two kinds of means: that of MESS's 22 data sets for all models but
DEDOS, whose two rows have the mean of the five domains (by data sets it would be 36.6 and 39.6).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dedos_deploy.errors import BadInputError

_FILE = Path(__file__).parent / "paper_tables.json"

HERE = "this result"


@dataclass(frozen=True)
class PaperRow:
    """One row of a table: a model and its scores."""

    model: str
    reference: int | None
    """The model's number in the paper."""
    vlm: str | None
    """Vision-language model."""
    scores: dict[str, float | None]
    """mIoU in percent by column, None where the paper has a dash."""
    training: str | None = None
    """Data set (Table 1 only)."""
    additional: bool | None = None
    """Whether other data sets were used as well (Table 1 only)."""

    @property
    def label(self) -> str:
        """Model and what it sees with, as the report names it."""
        return self.model if self.vlm is None else f"{self.model}, {self.vlm}"


@dataclass(frozen=True)
class PaperTable:
    """A table: names of its columns and all its rows, in the paper's order."""

    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    def column(self, name: str) -> list[tuple[str, float]]:
        """Return (row, score) of the rows that have one in a column, in the paper's order."""
        return [(r.label, s) for r in self.rows if (s := r.scores[name]) is not None]


@dataclass(frozen=True)
class Standing:
    """A result among the published ones."""

    table: str
    """`Table 1` or `Table 2`."""
    column: str
    ranked: tuple[tuple[str, float], ...]
    """(name, mIoU in percent), best first, the own result called HERE."""
    place: int
    """Its rank from 1, of equals the best."""

    def rows(self) -> list[tuple[str, ...]]:
        """Return header and rows for a report."""
        header = ("", f"{self.table}, {self.column}", "mIoU present")
        body = []
        for index, (name, score) in enumerate(self.ranked, 1):
            body.append((str(index), name, f"{score:.1f}"))
        return [header, *body]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "table": self.table,
            "column": self.column,
            "place": self.place,
            "ranked": [list(pair) for pair in self.ranked],
        }


@lru_cache(maxsize=1)
def paper_tables() -> dict[str, PaperTable]:
    """Return "Table 1" (standard benchmarks) and "Table 2" (means of MESS's domains)."""
    values = json.loads(_FILE.read_text(encoding="utf-8"))
    return {
        name: PaperTable(
            tuple(values[key]["columns"]), tuple(PaperRow(**row) for row in values[key]["rows"])
        )
        for name, key in (("Table 1", "table_1"), ("Table 2", "table_2"))
    }


def placed(column: str, miou_present: float) -> Standing | None:
    """Return the standing of a result, in [0, 1], in a column of Table 1 or a domain of Table 2.

    None for a benchmark that neither table has.

    Raises BadInputError for a result outside [0, 1].
    """
    if not 0.0 <= miou_present <= 1.0:
        raise BadInputError(
            f"miou_present is {miou_present}, but lies in [0, 1]; give it as a part"
        )
    for name, table in paper_tables().items():
        if column in table.columns:
            own = (HERE, 100 * miou_present)
            # Before equals: sorted keeps their order.
            ranked = sorted([own, *table.column(column)], key=lambda pair: -round(pair[1], 1))
            return Standing(name, column, tuple(ranked), ranked.index(own) + 1)
    return None
