"""The paper's components as switches: the rows of Table 3, each adding one to the one before.

Beside them stand controls: the whole method (V) with something else in the place of what a picture's own
diffusion features tell, so that a gain of (V) can be told from one of its extra parts; and other uses of
the diffusion, each with a control that has the same parameters and no diffusion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dedos_deploy.errors import BadInputError
from dedos_deploy.presets import ModelConfig

Component = Literal[
    "I",
    "II",
    "III",
    "IV",
    "V",
    "V0",
    "V-random",
    "V-shuffled",
    "oracle",
    "V-predict",
    "V-predict-random",
    "V-mixed",
    "V0-mixed",
    "V-clip",
    "V0-clip",
]

Use = Literal["read", "predict", "mixed", "clip"]
"""What comes of the diffusion: proxy queries read it, and their mean is the bank; CLIP's refined tokens
predict it (prediction.py); several banks are mixed by the picture's CLS; queries that read CLIP are
taught to equal those that read the diffusion (distillation.py)."""

Reads = Literal["nothing", "features", "random", "shuffled", "labels"]
"""What proxy queries read while training: the diffusion's features of the picture; those of a noise
predictor with random weights; those of another picture of the micro-batch; the picture's true labels."""


View = Literal["whole", "crop"]
"""What the diffusion reads: the unaugmented image, or the crop that the model sees."""


@dataclass(frozen=True)
class Parts:
    """What a row of Table 3 has: proxy queries that refine CLIP and read the diffusion, a
    progressive walk with Kronecker kernels, separation of texture (Eq. 9-12), text aggregation.
    """

    queries: bool
    progressive: bool
    separation: bool
    text: bool
    reads: Reads = "features"
    use: Use = "read"

    @property
    def walks(self) -> bool:
        """Whether a diffusion model takes part."""
        return self.queries and self.reads not in ("nothing", "labels")

    @property
    def learns(self) -> bool:
        """Whether proxy queries read anything, so that the bank has fillings."""
        return self.queries and self.reads != "nothing" and self.use != "predict"


COMPONENTS: dict[Component, Parts] = {
    "I": Parts(False, False, False, False),
    "II": Parts(True, False, False, False),
    "III": Parts(True, True, False, False),
    "IV": Parts(True, True, True, False),
    "V": Parts(True, True, True, True),
    "V0": Parts(True, True, False, True, "nothing"),
    "V-random": Parts(True, True, True, True, "random"),
    "V-shuffled": Parts(True, True, True, True, "shuffled"),
    "oracle": Parts(True, True, False, True, "labels"),
    "V-predict": Parts(True, True, False, True, "features", "predict"),
    "V-predict-random": Parts(True, True, False, True, "random", "predict"),
    "V-mixed": Parts(True, True, True, True, "features", "mixed"),
    "V0-mixed": Parts(True, True, False, True, "nothing", "mixed"),
    "V-clip": Parts(True, True, True, True, "features", "clip"),
    "V0-clip": Parts(True, True, False, True, "nothing", "clip"),
}
"""`oracle` shows what a constant bank can transmit at all, had the diffusion known the layout."""

TABLE3: tuple[Component, ...] = ("I", "II", "III", "IV", "V")
CONTROLS: tuple[Component, ...] = ("V0", "V-random", "V-shuffled", "oracle")
USES: dict[Component, Component] = {
    "V-predict": "V-predict-random",
    "V-mixed": "V0-mixed",
    "V-clip": "V0-clip",
}
"""Other uses of the diffusion, and the control of each: its parameters, and nothing of the diffusion."""
CONTROL_OF: dict[Component, Component] = {"V": "V-random", **USES}
"""What a row has to beat before what the diffusion has learned can be said to help: as many parameters,
and the same losses where the control can have them."""


def timesteps_for(component: Component, timesteps: tuple[int, ...]) -> tuple[int, ...]:
    """Return the timesteps that a row walks, high to low; "once" is the middle one.

    >>> timesteps_for("II", (50, 100, 200)), timesteps_for("V", (50, 100, 200))
    ((100,), (200, 100, 50))
    """
    walked = tuple(sorted(timesteps, reverse=True))
    return walked if COMPONENTS[component].progressive else (walked[len(walked) // 2],)


def config_for(config: ModelConfig, component: Component, steps: int, sets: int = 4) -> ModelConfig:
    """Return `config` with the parts of one row; steps: N of the walk, for rows that have one; sets: M of
    rows that mix banks.

    Without progressive learning q_t is one plain [n, c] matrix: a basic kernel of full size and a
    1 x 1 diffusion kernel.
    """
    parts = COMPONENTS[component]
    if parts.progressive:
        config = replace(config, steps=steps)
    else:
        whole = (config.queries, config.query_width)
        config = replace(config, steps=1, basic_kernel=whole, diffusion_kernel=(1, 1))
    if not parts.queries:
        config = replace(config, refine_blocks=())
    if parts.use == "mixed":
        config = replace(config, query_source="mixed", query_sets=sets)
    elif parts.use == "clip":
        config = replace(config, query_source="clip")
    return config if parts.text else replace(config, text_blocks=0)


@dataclass(frozen=True)
class Given:
    """What a run gives a component to learn from."""

    diffusion: bool
    """Whether a diffusion is named."""
    view: View
    micro_batch: int
    """Pictures that are seen at once."""


def component_named(name: str) -> Component:
    """Return the component called `name`. Raises BadInputError for none."""
    for component in COMPONENTS:
        if component == name:
            return component
    raise BadInputError(
        f"unknown component {name!r}; rows of Table 3, controls and other uses: "
        f"{', '.join(COMPONENTS)}"
    )


def check_component(component: Component, given: Given) -> None:
    """Raise BadInputError for a component that is unknown, or that needs other things than `given`."""
    parts = COMPONENTS[component_named(component)]
    if given.diffusion and not parts.queries:
        raise BadInputError(
            f"component {component} is the baseline without proxy queries, so it cannot "
            "learn from --diffusion; leave that out or choose II to V"
        )
    if given.diffusion and not parts.walks:
        raise BadInputError(
            f"component {component} is a control that reads no diffusion; leave --diffusion "
            "out or choose V"
        )
    if parts.use == "predict" and not given.diffusion:
        raise BadInputError(
            f"component {component} predicts the features of a diffusion; name one with --diffusion"
        )
    if parts.reads in ("random", "shuffled") and not given.diffusion:
        raise BadInputError(
            f"component {component} is a control for what --diffusion tells; give the one that "
            "V reads"
        )
    if parts.use == "predict" and given.view != "crop":
        raise BadInputError(
            f"component {component} compares positions, so the diffusion must read the crop that "
            "the model sees; add --view crop"
        )
    if parts.reads == "shuffled" and given.micro_batch < 2:
        raise BadInputError(
            f"component {component} reads another picture of the micro-batch, which has 1; "
            "make --batch or --micro-batch 2 at least"
        )
