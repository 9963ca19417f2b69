"""The authors' models by the name of their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity.authors import Authors
from parity.cat_seg import CAT_SEG_SIZES, authors_cat_seg
from parity.san import SAN_SIZES, authors_san

BUILDERS: dict[str, tuple[Callable[[Path, Any], Authors], dict[str, Any]]] = {
    "san": (authors_san, SAN_SIZES),
    "catseg": (authors_cat_seg, CAT_SEG_SIZES),
}
