"""The paper's components as switches: the rows of Table 3, each adding one to the one before.

Beside them stand controls: the whole method (V) with something else in the place of what a picture's own
diffusion features tell, so that a gain of (V) can be told from one of its extra parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dedos_deploy.presets import ModelConfig

Component = Literal["I", "II", "III", "IV", "V", "V0", "V-random", "V-shuffled", "oracle"]

Reads = Literal["nothing", "features", "random", "shuffled", "labels"]
"""What proxy queries read while training: the diffusion's features of the picture; those of a noise
predictor with random weights; those of another picture of the micro-batch; the picture's true labels."""


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

    @property
    def walks(self) -> bool:
        """Whether a diffusion model takes part."""
        return self.learns and self.reads != "labels"

    @property
    def learns(self) -> bool:
        """Whether proxy queries read anything."""
        return self.queries and self.reads != "nothing"


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
}
"""`oracle` shows what a constant bank can transmit at all, had the diffusion known the layout."""

TABLE3: tuple[Component, ...] = ("I", "II", "III", "IV", "V")
CONTROLS: tuple[Component, ...] = ("V0", "V-random", "V-shuffled", "oracle")


def timesteps_for(component: Component, timesteps: tuple[int, ...]) -> tuple[int, ...]:
    """Return the timesteps that a row walks, high to low; "once" is the middle one.

    >>> timesteps_for("II", (50, 100, 200)), timesteps_for("V", (50, 100, 200))
    ((100,), (200, 100, 50))
    """
    walked = tuple(sorted(timesteps, reverse=True))
    return walked if COMPONENTS[component].progressive else (walked[len(walked) // 2],)


def config_for(config: ModelConfig, component: Component, steps: int) -> ModelConfig:
    """Return `config` with the parts of one row; steps: N of the walk, for rows that have one.

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
    return config if parts.text else replace(config, text_blocks=0)
