"""What `dedos-run --licenses` prints."""

from __future__ import annotations

import argparse
import json

from dedos_deploy.cli._main import EXIT_OK
from dedos_deploy.errors import BadInputError

_HEEDED = ("bundle", "credits", "json")


def print_credits(args: argparse.Namespace, defaults: argparse.Namespace) -> int:
    """Print licence and sources of the bundle, and return the exit code.

    defaults: what the arguments are when nothing but --licenses is given.

    Raises BadInputError for options that would do nothing, and what opening a bundle raises.
    """
    from dedos_deploy.bundle import Bundle, credits_text

    for name, value in vars(args).items():
        if name not in _HEEDED and value != getattr(defaults, name):
            option = "--" + name.replace("_", "-")
            raise BadInputError(f"--licenses labels nothing; leave {option} out")
    with Bundle.open(args.bundle) as bundle:
        if args.json:
            facts = {"licence": bundle.manifest.licence, "sources": bundle.manifest.sources}
            print(json.dumps(facts, ensure_ascii=False))
        else:
            print(credits_text(bundle.manifest))
    return EXIT_OK
