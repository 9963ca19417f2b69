"""What the doctor says: findings, each with a verdict and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["ok", "note", "bad"]

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    topic: str
    """Such as `gpu`."""

    verdict: Verdict
    """`ok`, `note` for what is missing and not needed everywhere, `bad` for what is broken."""

    found: str
    """What is there."""

    advice: str = ""
    """What to do, "" for nothing."""


@dataclass(frozen=True)
class Machine:
    """Where to look; tests point it at folders of their own."""

    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """Return the text of a file below the root without trailing NULs, None when unreadable."""
        try:
            content = (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return content.rstrip("\0\n")
