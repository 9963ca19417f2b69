"""Which of the classes that there are stand for those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dedos_deploy.evaluation.folder import match_classes
from dedos_deploy.label_files import class_word
from dedos_deploy.vocabulary import typed_vocabulary


def matched(names: Sequence[str], typed: str | None) -> list[tuple[str, list[int]]]:
    """Return the names asked for, each with the places in `names` of what its words name.

    typed: a class list or file as on command lines, None for all names as they are. Letter case, spacing
    and underscores do not tell words apart. Raises BadInputError for an entry that names nothing.
    """
    if typed is None:
        return [(name, [place]) for place, name in enumerate(names)]
    vocabulary, class_of = match_classes(tuple(map(class_word, names)), typed_vocabulary(typed))
    own = class_of[: len(names)]
    return [
        (entry.name, np.flatnonzero(own == class_id).tolist())
        for class_id, entry in enumerate(vocabulary.entries)
    ]
