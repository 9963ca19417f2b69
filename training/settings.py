"""Everything that decides a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dedos_deploy.errors import BadInputError, listed, shown
from dedos_deploy.fields import FieldError, load_json
from dedos_deploy.presets import (
    DENSE_PRESETS,
    PRESETS,
    ClipTune,
    CostKind,
    ModelConfig,
    get_preset,
    why_one_cost,
    with_cost,
)
from dedos_deploy.text.templates import prompt_templates
from dedos_deploy.training.augment import AugmentRecipe, AugmentSettings
from dedos_deploy.training.components import (
    COMPONENTS,
    Component,
    Given,
    View,
    check_component,
    timesteps_for,
)
from dedos_deploy.training.denoising import LiveFill
from dedos_deploy.training.kinds import parse_kind
from dedos_deploy.training.losses import LossWeights
from dedos_deploy.training.preset_defaults import DEFAULTS, KEEPING
from dedos_deploy.training.proxy_reader import MaskMap

Schedule = Literal["poly", "cosine"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Fields in `FREE_FIELDS` may change between a run and its continuation."""

    preset: str
    data: tuple[str, ...]
    """Entries `[KIND:]FOLDER[=SHARE]` (see sources.py)."""
    size_hw: tuple[int, int] | None = None
    """Network size, None for the preset's."""
    steps: int | None = 60_000
    """Optimizer steps (None: until `minutes`)."""
    minutes: float | None = None
    """Wall clock after which the run ends, with the learning rate at the end of its schedule."""
    batch: int = 4
    micro_batch: int | None = None
    """Images at once in one process (None: the batch divided by the processes); what it is decides
    memory, not the result: a step's gradient is the sum over its micro-batches. (Only BatchNorm in
    the detail branch of the edge presets sees micro-batches one by one.)"""
    lr: float = 2e-4
    backbone_lr: float = 2e-6
    """Learning rate of what is trained of CLIP."""
    clip_tune: ClipTune | None = None
    """What is trained of the CLIP trunk: nothing, its LayerNorms, queries and values of its attention,
    or all (None: the preset's)."""
    muon: float = 0.0
    """Learning rate of the matrices that take orthogonal steps, see optimizer.py (0: AdamW
    alone)."""
    weight_decay: float = 0.05
    warmup: int = 100
    schedule: Schedule = "poly"
    clip_norm: float = 1.0
    """Largest gradient norm, of all parameters together."""
    amp: bool | None = None
    """bfloat16 autocast (None: where CUDA is)."""
    ema: float = 0.0
    """Decay of the averaged weights that are evaluated and written (0: none)."""
    seed: int = 0
    init: str | None = None
    """Checkpoint to start from, or the dense preset whose CLIP to start from."""
    clip_weights: str | None = None
    """open_clip tag, or a file of a CLIP's weights."""
    keep: str | None = None
    """Checkpoint whose knowledge is kept, see keep.py; `demo` for the embedded weights (None: none)."""
    keep_weight: float = 1.0
    """Weight of what keeps it."""
    template: str = "single"
    tune_text: bool = False
    """Train the text tower, too."""
    cost: CostKind = "light"
    """Strength of the cost aggregation, see `presets.with_cost`."""
    background: Literal["ignore", "negative"] = "ignore"
    """What pixels of background words teach: nothing (ignore) or "none of the other words"
    (negative)."""
    vocabulary: int = 64
    """See BatchSettings."""
    drop_words: float = 0.25
    """See BatchSettings."""
    balance: float = 0.0
    """Exponent of the weights of rare words, see balance.py (0: none)."""
    rare: float = 0.0
    """Part of the pictures that are drawn by a rare word in them, see rare.py (0: none)."""
    paste: float = 0.0
    """Part of the pictures that are lent a rare thing of another one, see paste.py (0: none)."""
    kinds: tuple[str, ...] = ()
    """Words that are a kind of another, as cyclist=person, see kinds.py."""
    component: Component = "V"
    """Row of the paper's Table 3."""
    diffusion: str | None = None
    """Hub name or diffusers folder of the frozen teacher (None: train without it)."""
    timesteps: tuple[int, ...] = (50, 100, 200)
    """Those that the diffusion walks."""
    diffusion_hw: tuple[int, int] | None = None
    """Image size that the diffusion reads."""
    view: View = "whole"
    """The diffusion reads the unaugmented image (`whole`, which can be cached) or the crop that the
    model sees."""
    add_noise: bool = False
    """Start from noised latents."""
    diffusion_half: bool = False
    """The noise predictor in half precision."""
    diffusion_cache: str | None = None
    """Folder for latents and denoised images."""
    mask_map: MaskMap = "gate"
    """M of Eq. 4."""
    gamma: float = 1.0
    """Weight of L_consist in Eq. 16."""
    predict_weight: float = 1.0
    """Weight of L_predict, see prediction.py."""
    distil_weight: float = 1.0
    """Weight of L_distil, see distillation.py."""
    query_sets: int = 4
    """M, the banks of a component that mixes several."""
    bank: LiveFill = "ema"
    """Filling of the proxy bank while training."""
    bank_drop: float = 0.5
    """Part of the steps that use the bank's queries in place of the images' own."""
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: AugmentSettings = field(default_factory=AugmentSettings)
    save_minutes: float = 5.0
    """Time between checkpoints."""
    save_steps: int = 0
    """Steps between checkpoints (0: by the clock alone)."""
    eval_minutes: float = 10.0
    """Time between evaluations (0: only at the end)."""
    eval_images: int = 40
    """Images of one evaluation; the last one takes all."""
    samples: int = 4
    """Images painted at each evaluation."""
    tensorboard: bool = False
    """Write event files, too."""
    workers: int = 1
    """Processes that load images."""
    threads: int = 0
    """CPU threads of the training process (0: torch's choice)."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        if not self.data:
            raise BadInputError("no data set was given; name at least one with --data")
        if self.steps is None and self.minutes is None:
            raise BadInputError("a run needs an end; give --steps, --minutes or both")
        for name in ("init", "clip_weights", "keep", "diffusion", "diffusion_cache"):
            # As an unset variable of a shell gives it: never a run without what was asked for.
            if getattr(self, name) == "":
                raise BadInputError(f"{name} is empty; name one, or leave the option out")
        self._check_ranges()
        self._check_method()
        _ = self.config
        prompt_templates(self.template)
        for kind in self.kinds:
            parse_kind(kind)
        if self.init in DENSE_PRESETS:
            self._check_clip(self.init)
        elif self.init and self.clip_weights:
            raise BadInputError(
                "init and clip_weights exclude each other: a checkpoint holds its CLIP already"
            )
        if self.size_hw is not None:
            get_preset(self.preset).check_size(self.size_hw)

    def _check_ranges(self) -> None:
        positive = (
            "steps minutes batch lr vocabulary clip_norm keep_weight predict_weight distil_weight"
        )
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInputError(f"{name} is {value}, but must be more than 0")
        not_negative = (
            "backbone_lr muon weight_decay warmup workers threads gamma save_steps samples save_minutes "
            "eval_minutes"
        )
        for name in not_negative.split():
            if not getattr(self, name) >= 0:
                raise BadInputError(f"{name} is {getattr(self, name)}, but must not be negative")
        if not 0 <= self.seed < 2**32:
            raise BadInputError(f"seed is {self.seed}, but a seed lies in [0, {2**32})")
        for name, what in (
            ("balance", "an exponent of it"),
            ("rare", "a part of the pictures"),
            ("paste", "a part of the pictures"),
            ("drop_words", "a probability"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInputError(f"{name} is {getattr(self, name)}, but {what} lies in [0, 1]")
        if not 0 <= self.ema < 1:
            raise BadInputError(f"ema is {self.ema}, but a decay lies in [0, 1); 0.999 is usual")

    def _check_clip(self, init: str) -> None:
        needed, given = get_preset(self.preset).clip, DENSE_PRESETS[init].clip
        if needed == given:
            return
        inits = [name for name, dense in DENSE_PRESETS.items() if dense.clip == needed]
        presets = [name for name, config in PRESETS.items() if config.clip == given]
        raise BadInputError(
            f"init {init} is the CLIP {given.architecture}, and preset {self.preset} has "
            f"{needed.architecture}; inits for {self.preset}: {listed(inits) or 'none'}; presets with "
            f"the CLIP of {init}: {listed(presets) or 'none'}"
        )

    def _check_method(self) -> None:
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise BadInputError(
                f"micro_batch {self.micro_batch} does not divide batch {self.batch}; choose one "
                "that does"
            )
        if not 0 <= self.bank_drop <= 1:
            raise BadInputError(f"bank_drop is {self.bank_drop}, but a probability lies in [0, 1]")
        if not 2 <= self.query_sets <= 64:
            raise BadInputError(
                f"query_sets is {self.query_sets}, but 2 to 64 banks can be mixed; 4 is the default"
            )
        given = Given(bool(self.diffusion), self.view, self.micro_batch or self.batch)
        check_component(self.component, given)
        if self.diffusion_cache and (self.view != "whole" or self.add_noise or not self.diffusion):
            raise BadInputError(
                "a diffusion cache needs --diffusion, --view whole (paper-* read crops otherwise) and no "
                "added noise: only then are latents constants of an image; leave --diffusion-cache out, "
                "or change the others"
            )

    def check_effects(self, given: Mapping[str, Any]) -> None:
        """Raise BadInputError for a value of `given` (None: not given) that nothing would come of."""
        for name, reason in self._without_effect().items():
            value = given.get(name)
            # A switch that is turned off asks for what there is anyway.
            if value is not None and value is not False:
                flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
                raise BadInputError(f"{name} {value} has no effect: {reason}, or leave {flag} out")

    def _without_effect(self) -> dict[str, str]:
        """Return the fields that decide nothing under the others, and why."""
        found: dict[str, str] = {}
        parts, labels = COMPONENTS[self.component], COMPONENTS[self.component].reads == "labels"
        if self.tuned == "none" and not self.tune_text:
            found["backbone_lr"] = (
                "CLIP stays as it is; choose with --clip-tune ln or qv what is trained of it"
            )
        one_cost = why_one_cost(self.preset)
        if one_cost is not None:
            found["cost"] = one_cost
        if not (self.loss.dense or self.loss.score):
            found["balance"] = (
                f"preset {self.preset} has no loss whose words it could weigh; take nano or miniature"
            )
        if self.augmentation.recipe != "deployed":
            found["darken"] = (
                f"recipe {self.augmentation.recipe} has colours of its own; choose --recipe deployed"
            )
        if not self.keep:
            found["keep_weight"] = "nothing is kept; name what to keep with --keep"
        if not self.diffusion:
            reason = "no diffusion model is read; name one with --diffusion"
            reading = () if labels else _OF_READING
            found |= dict.fromkeys((*_OF_DIFFUSION, *reading), reason)
        if not (self.diffusion and parts.separation):
            found["gamma"] = "texture is separated with --diffusion in IV and V alone; choose these"
        if not (self.diffusion or parts.progressive):
            found["timesteps"] = f"component {self.component} walks none here; name a --diffusion"
        return found | self._without_use()

    def _without_use(self) -> dict[str, str]:
        """Return the same of the fields of one use of the diffusion."""
        found: dict[str, str] = {}
        use = COMPONENTS[self.component].use
        if use == "predict":
            reason = f"the queries of component {self.component} read no diffusion; choose V"
            found |= {"mask_map": reason, "bank": reason}
        else:
            reason = "no head predicts the diffusion's features; choose component V-predict"
            found["predict_weight"] = reason
        if not (self.diffusion and use == "clip"):
            reason = "no denoised queries teach any that read CLIP"
            found["distil_weight"] = f"{reason}; choose component V-clip with --diffusion"
        if use != "mixed":
            reason = f"component {self.component} has one bank; choose V-mixed or V0-mixed"
            found["query_sets"] = reason
        return found

    @property
    def config(self) -> ModelConfig:
        """The model's configuration before the component, and what of CLIP is trained, are chosen."""
        preset = get_preset(self.preset)
        return preset if self.cost == "light" else with_cost(preset, self.cost)

    @property
    def tuned(self) -> ClipTune:
        """What is trained of the CLIP trunk."""
        return self.clip_tune or get_preset(self.preset).clip_tune

    @property
    def walked(self) -> tuple[int, ...]:
        """Timesteps in the order walked, those of the component."""
        return timesteps_for(self.component, self.timesteps)

    @property
    def network_hw(self) -> tuple[int, int]:
        """Network size in pixels, the preset's own unless given."""
        return self.size_hw or get_preset(self.preset).size_hw

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def check_continues(self, earlier: str) -> None:
        """Raise BadInputError unless a run with settings `earlier` (JSON) can go on under these."""
        # What an earlier version did not know had the value that is the default now.
        defaults = json.loads(TrainSettings(self.preset, self.data).to_json())
        before = {**_each(defaults, defaults), **_each(_recorded(earlier), defaults)}
        before["clip_tune"] = before["clip_tune"] or get_preset(self.preset).clip_tune
        now = _each(json.loads(replace(self, clip_tune=self.tuned).to_json()), defaults)
        for name, value in now.items():
            if name not in FREE_FIELDS and before.get(name) != value:
                raise BadInputError(
                    f"the run to resume has {name} {shown(before.get(name))}, not {shown(value)}; "
                    "repeat its options, or start a new run in another --output"
                )


def _each(values: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those one by one that are groups in `like`, as `augmentation darken`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        group = like.get(name)
        if isinstance(group, dict):
            inside = value if isinstance(value, dict) else dict.fromkeys(group, value)
            found |= {f"{name} {inner}": single for inner, single in inside.items()}
        else:
            found[name] = value
    return found


def _recorded(settings: str) -> dict[str, Any]:
    advice = "start a new run from --init checkpoint"
    try:
        values = load_json(settings)
    except FieldError as error:
        raise BadInputError(f"what the run to resume has as settings {error}; {advice}") from error
    if not isinstance(values, dict):
        raise BadInputError(f"what the run to resume has as settings is no JSON object; {advice}")
    return values


FREE_FIELDS = frozenset(
    (
        "steps minutes save_minutes save_steps eval_minutes eval_images samples tensorboard "
        "workers threads device diffusion diffusion_hw diffusion_cache micro_batch keep"
    ).split()
)
# The state has the fingerprints of the diffusion, of which its size is a part, and of what is kept.

_OF_DIFFUSION = ("diffusion_hw", "view", "add_noise", "diffusion_half")
_OF_READING = ("mask_map", "bank", "bank_drop")
"""Fields that need a diffusion model; those that need it or another thing to read."""

_FLAGS = {"diffusion_hw": "--diffusion-size"}


def settings_for(
    preset: str,
    data: tuple[str, ...],
    *,
    recipe: AugmentRecipe | None = None,
    darken: float | None = None,
    **given: Any,
) -> TrainSettings:
    """Return the settings of a run: the preset's defaults under what was `given`.

    recipe, darken: of the augmentation, None for the preset's. A run with minutes but no steps ends
    by the clock alone; one that keeps something has the rates of KEEPING.

    >>> settings_for("nano", ("street",), batch=2).batch, settings_for("nano", ("street",)).batch
    (2, 8)
    """
    get_preset(preset)
    values = dict(DEFAULTS.get(preset, {}))
    if given.get("keep") is not None:
        values |= KEEPING.get(preset, {})
    if given.get("minutes") is not None and given.get("steps") is None:
        values["steps"] = None
    values.update({name: value for name, value in given.items() if value is not None})
    of_augmentation = {"recipe": recipe, "darken": darken}
    values["augmentation"] = replace(
        values.get("augmentation", AugmentSettings()),
        **{name: value for name, value in of_augmentation.items() if value is not None},
    )
    settings = replace(TrainSettings(preset, data), **values)
    settings.check_effects({**given, "darken": darken})
    return settings
