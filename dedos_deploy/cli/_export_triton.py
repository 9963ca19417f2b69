"""dedos-export --triton: a bundle, there already or just exported, into a model repository."""

from __future__ import annotations

import argparse
from pathlib import Path

from dedos_deploy.calib.options import INT8_OPTIONS
from dedos_deploy.cli._options import bundles_read, fields_of
from dedos_deploy.errors import BadInputError
from dedos_deploy.export.options import EXPORT_OPTIONS, OVERWRITE, WEIGHT_OPTIONS
from dedos_deploy.export.triton_options import TRITON_OPTIONS, TritonOptions
from dedos_deploy.places import ALL, Written, check_apart, named


def triton_options(args: argparse.Namespace) -> TritonOptions | None:
    """Return what was asked of a model repository, None for nothing. Raises BadInputError."""
    given = fields_of(args, TRITON_OPTIONS)
    if "repository" in given:
        return TritonOptions(**given)
    for option in TRITON_OPTIONS:
        if option.field in given:
            raise BadInputError(f"{option.flags[0]} goes with --triton REPO; give both")
    if args.bundle is not None:
        raise BadInputError("--bundle is what --triton REPO is written from; give both")
    return None


def check_nothing_to_export(args: argparse.Namespace) -> None:
    """Raise BadInputError where a bundle that is there comes with options for making one."""
    making = [one for one in (*WEIGHT_OPTIONS, *EXPORT_OPTIONS, *INT8_OPTIONS) if one != OVERWRITE]
    flags = [one.flags[0] for one in making if fields_of(args, [one])]
    flags += [f"--{name}" for name in ("device", "output") if getattr(args, name)]
    if flags:
        raise BadInputError(
            f"--bundle {args.bundle} is there already, and {flags[0]} is for one that is made; leave one "
            "of them out"
        )


def model_written(args: argparse.Namespace, options: TritonOptions, bundle: str) -> Written:
    """Return the folder of the model as what is written. Raises BadInputError for one in the way."""
    from dedos_deploy.export.triton import model_folder

    folder = model_folder(bundle, options, overwrite=bool(args.overwrite))
    return Written(f"model {str(folder)!r}", folder, (ALL,))


def write_model(args: argparse.Namespace, options: TritonOptions, bundle: str | Path) -> Path:
    """Write the model of a bundle that is there, and return its folder."""
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.export.triton import write_triton_model

    read = [*bundles_read(str(bundle)), *named("words", options.classes)]
    check_apart([model_written(args, options, str(bundle))], read)
    with Bundle.open(bundle) as opened:
        return write_triton_model(opened, options, overwrite=bool(args.overwrite))


def serving_line(folder: Path) -> str:
    """Return how the model is served."""
    return f"serve it: tritonserver --model-repository={folder.parent}   (model {folder.name!r})"
