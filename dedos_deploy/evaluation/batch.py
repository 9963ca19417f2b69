"""Several subjects on the same images: evaluated, pictured, compared, reported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.evaluation.compare import Comparison, compare
from dedos_deploy.evaluation.data import EvaluationData
from dedos_deploy.evaluation.evaluate import (
    WHOLE,
    Evaluated,
    Keeping,
    evaluate_predictor,
    read_evaluation,
)
from dedos_deploy.evaluation.looking import AS_DEPLOYED, Looking, idle_looks, idle_said
from dedos_deploy.evaluation.overlays import Chosen, Shown, choose, show
from dedos_deploy.evaluation.published import beside
from dedos_deploy.evaluation.records import MADE, confusion_of
from dedos_deploy.evaluation.report import Report, Section
from dedos_deploy.evaluation.subjects import Running, Subject, base_classes
from dedos_deploy.evaluation.tables import placed
from dedos_deploy.files import write_atomically
from dedos_deploy.label_files import class_word
from dedos_deploy.progress import QUIET, Progress

SHOWN = "shown.json"
_FILES = ("report.*", "images*.jsonl", "shown*")
WRITTEN = (*_FILES, *(f"*/{name}" for name in _FILES))
"""Patterns of what an evaluation keeps in its folder, that of several models in folders of it."""

_PANELS = ("image", "labels", "answer", "mistakes")
_OWN_FILES = re.compile(r"images.*\.jsonl|report\.(html|md|json)|shown.*\.(jpg|json)")


def evaluate_subjects(
    subjects: Sequence[Subject],
    data_for: Callable[[bool | None], EvaluationData],
    running: Running,
    keeping: Keeping,
    *,
    progress: Progress = QUIET,
) -> list[tuple[Evaluated, Section]]:
    """Evaluate every subject on the same images, one after the other.

    data_for: returns them, given whether to ask for synonyms. With one subject its records stand in
    `output` itself, with more in a folder each; progress: a subject is a
    part of it.
    """
    names = _distinct(
        [
            _name(subject, running.looking, data_for(subject.synonyms).classes)
            for subject in subjects
        ]
    )
    found = []
    for number, (subject, name) in enumerate(zip(subjects, names, strict=True), start=1):
        folder = keeping.output
        if folder is not None and len(subjects) > 1:
            folder = folder / slug(name)
        data = data_for(subject.synonyms)
        with progress.part(number, len(subjects), name):
            found.append(_evaluate(subject, name, data, running, keeping, folder, progress))
    return found


def _evaluate(
    subject: Subject,
    name: str,
    data: EvaluationData,
    running: Running,
    keeping: Keeping,
    folder: Path | None,
    progress: Progress,
) -> tuple[Evaluated, Section]:
    with closing(subject.open(data.vocabulary, running, name)) as predictor:
        base = base_classes(data, predictor.taught)
        evaluated = evaluate_predictor(
            predictor, data, replace(keeping, output=folder), base=base, progress=progress
        )
        shown: list[Shown] = []
        if keeping.pictures and folder is not None and keeping.part == WHOLE:
            chosen = choose(evaluated.records, len(data.classes))
            shown = show(chosen, predictor, data)
            save_shown(folder, shown)
    section = _section(evaluated, shown)
    if running.looking != AS_DEPLOYED:
        for what, pictures in section.idle:
            progress.warn(f"{name}: {idle_said(what, pictures, section.result.images)}")
    return evaluated, section


def _section(evaluated: Evaluated, shown: Sequence[Shown]) -> Section:
    result, header = evaluated.result, evaluated.header
    standing = placed(result.data, result.miou_present)
    matrix = confusion_of(evaluated.records, len(result.classes)).matrix
    identity = header["identity"]
    idle = idle_looks(identity, [one.size for one in evaluated.records if not one.skipped])
    return Section(
        result,
        identity,
        shown,
        standing,
        beside(result, header),
        matrix,
        header.get(MADE),
        idle,
    )


def compare_evaluated(first: Evaluated, second: Evaluated) -> Comparison:
    """Return the paired comparison of two evaluations; raises BadInputError when they differ."""
    return compare((first.header, first.records), (second.header, second.records))


def compare_pairs(found: Sequence[tuple[Evaluated, Section]]) -> list[Comparison]:
    """Return of pairs, such as tuned words and words themselves, how the first is beside the second."""
    pairs = zip(found[::2], found[1::2], strict=True)
    return [compare_evaluated(second, first) for (first, _), (second, _) in pairs]


def read_sections(folders: Sequence[Path]) -> list[tuple[Evaluated, Section]]:
    """Return evaluations that were kept, with their pictures; a folder may hold several.

    Raises BadInputError for a folder without any, and records that cannot be used.
    """
    found = []
    for folder in folders:
        places = [folder] if list(folder.glob("images*.jsonl")) else _inside(folder)
        if not places:
            raise BadInputError(
                f"{str(folder)!r} holds no evaluation; give the --output of dedos-eval"
            )
        for place in places:
            evaluated = read_evaluation(place)
            found.append((evaluated, _section(evaluated, load_shown(place))))
    return found


def _inside(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.glob("*/images*.jsonl")})


def report_of(
    found: Sequence[tuple[Evaluated, Section]], comparisons: Sequence[Comparison] = ()
) -> Report:
    """Return the report of evaluations."""
    return Report([section for _, section in found], comparisons)


def save_shown(folder: Path, shown: Sequence[Shown]) -> None:
    """Write pictures as files and what they are as JSON; raises SinkError when that fails."""
    import cv2

    entries = []
    try:
        for number, one in enumerate(shown):
            for panel in _PANELS:
                done, data = cv2.imencode(".jpg", getattr(one, panel), [1, 90])
                assert done
                write_atomically(folder / _picture(number, panel), data.tobytes())
            entries.append({"chosen": vars(one.chosen), "legend": one.legend})
        write_atomically(folder / SHOWN, (json.dumps(entries, indent=1) + "\n").encode())
    except OSError as error:
        raise SinkError(
            f"pictures cannot be written to {str(folder)!r} ({error.strerror}); make room or "
            "choose another --output"
        ) from error


def load_shown(folder: Path) -> list[Shown]:
    """Return the pictures that `save_shown` wrote, none where there are none.

    Raises BadInputError when they are damaged.
    """
    import cv2

    if not (folder / SHOWN).exists():
        return []
    try:
        entries = json.loads((folder / SHOWN).read_text(encoding="utf-8"))
        found = []
        for number, entry in enumerate(entries):
            panels = {}
            for panel in _PANELS:
                picture = cv2.imread(str(folder / _picture(number, panel)), cv2.IMREAD_COLOR)
                if picture is None:
                    raise ValueError(f"{_picture(number, panel)} cannot be read")
                panels[panel] = np.asarray(picture, np.uint8)
            legend = tuple((name, colour) for name, colour in entry["legend"])
            found.append(Shown(Chosen(**entry["chosen"]), **panels, legend=legend))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"the pictures in {str(folder)!r} are damaged ({error}); remove {SHOWN} there"
        ) from error
    return found


def _picture(number: int, panel: str) -> str:
    return f"shown_{number}_{panel}.jpg"


def slug(name: str) -> str:
    """Return a file name for a subject.

    >>> slug("nano, no synonyms")
    'nano_no_synonyms'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.") or "subject"


def _name(subject: Subject, looking: Looking, classes: Sequence[str]) -> str:
    """Return the subject's name, and what it is where a class is called the same."""
    name = subject.named(looking)
    called = class_word(name) in map(class_word, classes)
    return f"{name} ({subject.kind})" if called else name


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names with a number where one occurs twice, or its folder would be another file."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        number, unique = 2, name
        # In lower case: there are file systems that do not tell.
        while (place := slug(unique).lower()) in taken or _OWN_FILES.fullmatch(place):
            unique, number = f"{name} ({number})", number + 1
        taken.add(place)
        found.append(unique)
    return found
