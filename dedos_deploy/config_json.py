"""Configurations of models as JSON values: checkpoints and manifests hold them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, cast

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.fields import FieldError, checked
from dedos_deploy.presets import ClipConfig, DenseConfig, ModelConfig, TextTowerConfig


def config_kind(values: object) -> type[ModelConfig] | type[DenseConfig]:
    """Return which record JSON values are meant to be: only a dense CLIP has a `head`."""
    return DenseConfig if isinstance(values, dict) and "head" in values else ModelConfig


def any_config_from_dict(values: dict[str, Any]) -> ModelConfig | DenseConfig:
    """Return the configuration that `to_dict` of either kind wrote.

    A key that is missing has its default where there is one: files of earlier releases lack some.

    Raises BadInputError for an unknown, missing or mistyped key, naming the nearest one, and for a
    value out of range.
    """
    kind = config_kind(values)
    try:
        config = checked(kind, _completed(kind, values, "config"), "config")
    except FieldError as error:
        raise BadInputError(f"model configuration is incomplete or mistyped: {error}") from error
    return cast("ModelConfig | DenseConfig", config)


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `ModelConfig.to_dict` wrote; see `any_config_from_dict`.

    Raises BadInputError also for the configuration of a dense CLIP.
    """
    config = any_config_from_dict(values)
    if isinstance(config, ModelConfig):
        return config
    raise BadInputError("it is of a CLIP with a head without training, not of a DEDOS model")


def _completed(kind: type, values: object, where: str) -> object:
    """Return the JSON value of a record with the defaults of the keys that it lacks."""
    if not isinstance(values, dict):
        return values
    defaults = {one.name: one.default for one in fields(kind)}
    for key in values:
        if key not in defaults:
            raise BadInputError(f"unknown key {key[:80]!r} in {where}{nearest(key, defaults)}")
    complete = {name: one for name, one in defaults.items() if one is not MISSING} | values
    parts = {"clip": ClipConfig, "text": TextTowerConfig}
    return {
        name: _completed(parts[name], item, name) if name in parts else item
        for name, item in complete.items()
    }
