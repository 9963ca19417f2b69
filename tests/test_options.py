"""Tables of options: every field that should be reached is, and nothing said of it can drift."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields
from itertools import chain
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from dedos_deploy.calib.options import INT8_OPTIONS, Int8Options
from dedos_deploy.cli._options import add_options, fields_of
from dedos_deploy.corpus.formats.options import (
    ANNOTATION_OPTIONS,
    FORMAT_OPTIONS,
    ExportSettings,
    ImportSettings,
)
from dedos_deploy.export.options import EXPORT_OPTIONS, WEIGHT_OPTIONS, ExportOptions
from dedos_deploy.export.triton_options import TRITON_OPTIONS, TritonOptions
from dedos_deploy.export.weights import WeightsSource
from dedos_deploy.options import Option, size_hw
from dedos_deploy.training.components import CONTROLS, USES
from dedos_deploy.training.miniature.options import MINIATURE_OPTIONS
from dedos_deploy.training.miniature.plan import MiniaturePlan
from dedos_deploy.training.options import (
    CACHE_MACHINE_OPTIONS,
    CACHE_OPTIONS,
    TRAIN_OPTIONS,
)
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings
from dedos_deploy.training.pretraining.options import (
    DIFFUSION_OPTIONS,
    TEXT_OPTIONS,
    TRUNK_OPTIONS,
)
from dedos_deploy.training.pretraining.text import DistilSettings
from dedos_deploy.training.pretraining.trunk_patches import TrunkSettings
from dedos_deploy.training.settings import TrainSettings

CACHED = {"timesteps", "component", "diffusion_hw", "diffusion_half", "device", "threads"}
TABLES = {
    "export": (ExportOptions, EXPORT_OPTIONS, {"int8"}),
    "weights": (WeightsSource, WEIGHT_OPTIONS, set()),
    "int8": (Int8Options, INT8_OPTIONS, set()),
    "triton": (TritonOptions, TRITON_OPTIONS, set()),
    "label export": (ExportSettings, FORMAT_OPTIONS, {"to"}),
    "label import": (ImportSettings, ANNOTATION_OPTIONS, {"file", "source"}),
    "train": (
        TrainSettings,
        tuple(chain(*TRAIN_OPTIONS.values())),
        {"preset", "data", "loss", "augmentation", "eval_images"},
    ),
    "cache": (
        TrainSettings,
        CACHE_OPTIONS + CACHE_MACHINE_OPTIONS,
        {field.name for field in fields(TrainSettings)} - CACHED,
    ),
    "diffusion": (
        NanoSettings,
        DIFFUSION_OPTIONS,
        {"vae_part", "vae", "unet", "draw_steps", "limit"},
    ),
    "text": (DistilSettings, TEXT_OPTIONS, {"scene_share", "relations"}),
    "trunk": (
        TrunkSettings,
        TRUNK_OPTIONS,
        {
            *("zoom", "aspect", "muon", "weight_decay", "warmup"),
            *("features", "words", "held_out", "save_minutes"),
        },
    ),
    "miniature": (
        MiniaturePlan,
        MINIATURE_OPTIONS,
        {
            *("size_hw", "clip_minutes", "vae_steps", "unet_steps", "batch", "muon"),
            *("bank_drop", "calibration"),
        },
    ),
}
"""The dataclass of every table, and those of its fields that no option of the table fills."""

INSIDE = {("train", "recipe"), ("train", "darken"), ("diffusion", "prediction")}
"""Options of what is inside a field."""

CASES = [
    pytest.param(name, kind, option, id=f"{name}-{option.flags[0]}")
    for name, (kind, options, _) in TABLES.items()
    for option in options
    if (name, option.field) not in INSIDE
]


@pytest.mark.parametrize("name", TABLES)
def test_every_field_that_should_be_reached_has_one_option(name: str) -> None:
    kind, options, unreached = TABLES[name]
    filled = [option.field for option in options if (name, option.field) not in INSIDE]
    assert sorted([*filled, *unreached]) == sorted(field.name for field in fields(kind))


def field_of(kind: type[Any], option: Option) -> Field[Any]:
    return next(field for field in fields(kind) if field.name == option.field)


@pytest.mark.parametrize(("name", "kind", "option"), CASES)
def test_the_default_that_help_names_is_that_of_the_field(
    name: str, kind: type[Any], option: Option
) -> None:
    assert ("{default}" in option.help) == (option.default is not None)
    if option.default is not None:
        assert option.default == field_of(kind, option).default


@pytest.mark.parametrize(("name", "kind", "option"), CASES)
def test_type_and_choices_are_those_of_the_field(
    name: str, kind: type[Any], option: Option
) -> None:
    hint = get_type_hints(kind)[option.field]
    optional = type(None) in get_args(hint)
    alternatives = [one for one in (get_args(hint) or [hint]) if one is not type(None)]
    if optional and get_origin(alternatives[0]) is Literal:
        hint = alternatives[0]
    if get_origin(hint) is Literal:
        # The baseline (I), controls and other uses have nothing of their own to cache.
        beside = {"I", *CONTROLS, *USES, *USES.values()} if name == "cache" else set()
        choices = set(get_args(hint)) - beside
        assert set(option.choices) == choices
    elif option.switch:
        assert alternatives == [bool]
        # A switch of one way would do nothing if the field stood there already.
        assert option.switch == "both" or field_of(kind, option).default is (option.switch == "off")
    elif option.type in (int, float) and not option.several:
        assert alternatives == [option.type]
    assert option.several <= (get_origin(hint) is tuple)


@dataclass(frozen=True)
class Choices:
    batch: int = 4
    size_hw: tuple[int, int] | None = None
    steps: tuple[int, ...] = (1, 2)
    amp: bool = True
    pictures: bool = True
    words: str = ""


OPTIONS = (
    Option("batch", "images ({default})", int, metavar="N", default=4),
    Option("size_hw", "of the network", size_hw, flag="--size", metavar="HxW"),
    Option("steps", "taken (default: {default})", int, several=True, default=(1, 2)),
    Option("amp", "bfloat16", switch="both"),
    Option("pictures", "leave them out", flag="--no-pictures", switch="off"),
    Option("words", "to ask for", flag="--words --classes"),
)


def parsed(*arguments: str, options: Iterable[Option] = OPTIONS) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="dedos-x")
    add_options(parser, options)
    return fields_of(parser.parse_args(arguments), options)


def test_what_is_left_out_keeps_the_default_of_the_dataclass() -> None:
    assert parsed() == {} and Choices(**parsed()) == Choices()


def test_what_is_given_becomes_fields() -> None:
    line = "--batch 0 --size 240x320 --steps 3 4 --no-amp --no-pictures --classes road"
    found = Choices(**parsed(*line.split()))
    assert found == Choices(0, (240, 320), (3, 4), amp=False, pictures=False, words="road")
    assert Choices(**parsed("--amp")).amp is True


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    assert "images (4)" in shown and "taken (default: 1 2)" in shown and "{default}" not in shown


def test_a_text_that_cannot_be_read_is_refused_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, said in (
        (["--size", "640"], "--size: '640' is not a size; write HEIGHTxWIDTH, as 240x320"),
        (["--batch", "two"], "--batch: invalid int value: 'two'"),
    ):
        with pytest.raises(SystemExit) as ended:
            parsed(*arguments)
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_every_dataclass_of_a_table_checks_without_its_options() -> None:
    """A field without a default would be missed by `fields_of`, which names only what was given."""
    for name, (kind, options, _) in TABLES.items():
        for option in options:
            if (name, option.field) not in INSIDE | {("int8", "calib"), ("triton", "repository")}:
                field = field_of(kind, option)
                assert field.default is not MISSING or field.default_factory is not MISSING
