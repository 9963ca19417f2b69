"""The choices of a Triton model repository, for the command line's --help, too."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from dedos_deploy.errors import BadInputError, nearest, shown
from dedos_deploy.options import Option
from dedos_deploy.spec import BACKGROUNDS, CPU_ENGINES, ENGINES, Background

MOST_INSTANCES = 64
"""Per device: each holds an engine of its own."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class TritonOptions:
    """How Triton Inference Server shall run a bundle.

    Raises BadInputError naming the first value that is not allowed.
    """

    repository: str | os.PathLike[str]
    """Folder of models, made where there is none."""

    name: str | None = None
    """Of the model, None for that of the bundle's file."""

    engine: str = "cpu"
    """One of `spec.ENGINES`."""

    instances: int = 1
    """Of the model on each device, each in a process of its own."""

    gpus: tuple[int, ...] = ()
    """Indices of the GPUs to use, empty for all."""

    classes: str | None = None
    """Words of requests that bring none, or the name of a file, as of `--classes`; None for the bundle's
    base vocabulary."""

    background: Background = "threshold"
    """What leaves a pixel unlabelled."""

    def __post_init__(self) -> None:
        if self.name is not None and _NAME.fullmatch(self.name) is None:
            raise BadInputError(
                f"a model cannot be called {shown(self.name)}; use up to 100 letters, digits, '.', '_' "
                "and '-'"
            )
        for what, value, allowed in (
            ("engine", self.engine, ENGINES),
            ("background", self.background, BACKGROUNDS),
        ):
            if value not in allowed:
                raise BadInputError(
                    f"unknown {what} {value!r}{nearest(value, allowed)}; choose one of "
                    f"{', '.join(allowed)}"
                )
        if not 1 <= self.instances <= MOST_INSTANCES:
            raise BadInputError(
                f"a device runs 1 to {MOST_INSTANCES} instances of a model, not {self.instances}"
            )
        if self.gpus and self.on_cpu:
            raise BadInputError(
                f"GPUs were named, and the engine {self.engine!r} uses none; choose one of "
                f"{', '.join(ENGINES[len(CPU_ENGINES) :])}, or leave them out"
            )

    @property
    def on_cpu(self) -> bool:
        """Whether the engine needs no GPU."""
        return self.engine in CPU_ENGINES

    def name_for(self, bundle: str) -> str:
        """Return the name of the model. bundle: a name as `Bundle.open` takes it.

        >>> TritonOptions("models").name_for("out/my street.dedos")
        'my-street'
        """
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(bundle.rstrip(os.sep)))
        return self.name or stem.removesuffix(".dedos").strip("-.")[:100] or "model"


def _gpus(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"\d{1,3}(,\d{1,3})*", text, re.ASCII) is None:
        raise BadInputError(f"{text!r} are no GPUs; write their indices as 0,1")
    return tuple(map(int, text.split(",")))


TRITON_OPTIONS = (
    Option(
        "repository",
        "write a model repository for Triton Inference Server into this folder, from --bundle or from "
        "what is exported",
        flag="--triton",
        metavar="REPO",
    ),
    Option("name", "of the model (default: the bundle's)", flag="--triton-name", metavar="NAME"),
    Option(
        "engine",
        "what it runs on there (default: {default})",
        flag="--triton-engine",
        choices=ENGINES,
        default=TritonOptions.engine,
    ),
    Option(
        "instances",
        "how many of it per device, each in a process of its own; those of the CPU share its cores "
        "(default: {default})",
        int,
        flag="--triton-instances",
        metavar="N",
        default=TritonOptions.instances,
    ),
    Option(
        "gpus",
        "indices of the GPUs, as 0,1, for an engine on GPUs (default: all)",
        _gpus,
        flag="--triton-gpus",
        metavar="LIST",
    ),
    Option(
        "classes",
        "words of requests that bring none: 'car|automobile,road', a text file or a words file (default: "
        "the bundle's base vocabulary)",
        flag="--triton-classes",
        metavar="WORDS",
    ),
    Option(
        "background",
        "what leaves a pixel unlabelled (default: {default})",
        flag="--triton-background",
        choices=BACKGROUNDS,
        default=TritonOptions.background,
    ),
)
