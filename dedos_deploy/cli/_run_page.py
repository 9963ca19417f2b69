"""The page of dedos-run: what it needs, what is kept of it, and its server."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli.run_cameras import access_of, sources_of
from dedos_deploy.errors import BadInputError

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.cli._opened import Opened
    from dedos_deploy.cli.run_cameras import Ends
    from dedos_deploy.runtime import Segmenter, SegmenterView
    from dedos_deploy.runtime.flow import Run
    from dedos_deploy.runtime.serving.state_file import StateFile
    from dedos_deploy.vocabulary import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """What the page shows and changes."""

    run: Run
    segmenter: Segmenter
    views: Mapping[str, SegmenterView]
    """Words of every camera, by its name."""

    cameras: Sequence[Ends]

    bundle: Bundle
    """Has words to suggest, and tells those that its text tower may not know."""

    state: StateFile | None
    """Where words and colours are kept."""


def check_serving(args: argparse.Namespace) -> None:
    """Raise BadInputError for an option that does nothing without --serve."""
    given = {
        "--token": args.token,
        "--record-to": args.record_to,
        "--state": args.state,
        "--collect": args.collect,
    }
    for name, value in given.items():
        if value is not None and args.serve is None:
            raise BadInputError(f"{name} does nothing without --serve; add it, or leave {name} out")


def state_of(args: argparse.Namespace) -> StateFile | None:
    """Return the file of --state. Raises BadInputError."""
    from dedos_deploy.runtime.serving.state_file import StateFile

    return None if args.state is None else StateFile(Path(args.state))


def words_with(
    state: StateFile | None, words: Mapping[str, Vocabulary], args: argparse.Namespace
) -> dict[str, Vocabulary]:
    """Return the vocabularies of sources, those that were kept instead of those given."""
    from dedos_deploy.runtime.learned_words import joined

    kept = {} if state is None else state.chosen(sources_of(args))
    if kept:
        log.info(
            "words of %s are those kept in %r%s",
            ", ".join(kept),
            args.state,
            "" if args.classes is None else ", whatever --classes says",
        )
    # The file keeps rows of learned words alone: those of a words file still come from there.
    tuned = {name: words[name].tuned for name in kept if name in words}
    own = {
        name: replace(chosen.vocabulary, tuned=joined(tuned.get(name), chosen.vocabulary.tuned))
        for name, chosen in kept.items()
    }
    return {**words, **own}


def open_page(args: argparse.Namespace, watched: Watched, opened: Opened) -> None:
    """Serve the page, if it is asked for."""
    if args.serve is None:
        return
    from dedos_deploy.runtime.loading import tower_files
    from dedos_deploy.runtime.serving.app import Server
    from dedos_deploy.runtime.serving.controls import Controls
    from dedos_deploy.text.spelling import Spelling
    from dedos_deploy.vocabulary import Entry

    access = access_of(args.serve, args.token)
    record_to = None if args.record_to is None else Path(args.record_to)
    playbacks = {one.name: one.playback for one in watched.cameras if one.playback is not None}
    base = watched.bundle.base_words
    spelling = Spelling(tower_files(watched.bundle).open_tokenizer, base)
    controls = Controls(
        watched.segmenter,
        watched.views,
        record_to=record_to,
        collect_to=None if args.collect is None else Path(args.collect),
        cannot_learn=_without_examples(watched.bundle),
        background=args.background,
        state=watched.state,
        playbacks=playbacks,
        spelled_out=spelling.spelled_out,
    )
    # One after the other, since requests may begin recordings.
    page = opened.enter("page", ExitStack())
    page.callback(controls.close)
    controls.watch(watched.run)
    suggested = tuple(Entry(word).spelled for word in base)
    server = page.enter_context(Server(controls, access, words=suggested))
    log.info("watch at %s%s", server.url, "?token=…" if access.token else "")


def _without_examples(bundle: Bundle) -> str | None:
    """Return why a bundle's words cannot be learned from examples, None where they can."""
    try:
        bundle.examples_graph()
    except BadInputError as error:
        return str(error)
    return None
