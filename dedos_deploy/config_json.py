"""Configurations of models as JSON values: checkpoints and manifests hold them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, cast

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.fields import FieldError, checked
from dedos_deploy.peer_configs import CatSegConfig, PeerConfig, SanConfig
from dedos_deploy.presets import ClipConfig, DenseConfig, ModelConfig, TextTowerConfig

AnyConfig = ModelConfig | DenseConfig | PeerConfig
"""What decides the shape of a model that can be deployed."""

_TELLING: dict[str, type[AnyConfig]] = {
    "head": DenseConfig,
    "split": SanConfig,
    "lifted": CatSegConfig,
}
"""A key that no other record has."""


def config_kind(values: object) -> type[AnyConfig]:
    """Return which record JSON values are meant to be."""
    kinds = (kind for key, kind in _TELLING.items() if isinstance(values, dict) and key in values)
    return next(kinds, ModelConfig)


def any_config_from_dict(values: dict[str, Any]) -> AnyConfig:
    """Return the configuration that `to_dict` of any kind wrote.

    A key that is missing has its default where there is one: files of earlier releases lack some.

    Raises BadInputError for an unknown, missing or mistyped key, naming the nearest one, and for a
    value out of range.
    """
    kind = config_kind(values)
    try:
        _check_keys(kind, values, "config")
        config = checked(kind, _completed(kind, values), "config")
    except FieldError as error:
        raise BadInputError(f"model configuration is incomplete or mistyped: {error}") from error
    return cast(AnyConfig, config)


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `ModelConfig.to_dict` wrote; see `any_config_from_dict`.

    Raises BadInputError also for the configuration of another kind of model.
    """
    config = any_config_from_dict(values)
    if isinstance(config, ModelConfig):
        return config
    raise BadInputError(f"it is of {config.preset}, not of a DEDOS model")


def as_written_today(values: object) -> object:
    """Return JSON values of a bundle's configuration with what earlier releases did not write.

    Any other key must be there, whatever its default; what is no object passes unchanged.
    """
    if not isinstance(values, dict) or config_kind(values) is not ModelConfig:
        return values
    return {**WRITTEN_LATER, **values}


WRITTEN_LATER: dict[str, object] = {"query_source": "bank", "query_sets": 1}
"""Keys of a ModelConfig that bundles of earlier releases lack, with what their models did."""

_PARTS: dict[str, type] = {"clip": ClipConfig, "text": TextTowerConfig}


def _completed(kind: type, values: object) -> object:
    if not isinstance(values, dict):
        return values
    defaults = {one.name: one.default for one in fields(kind) if one.default is not MISSING}
    return {
        name: _completed(_PARTS[name], item) if name in _PARTS else item
        for name, item in (defaults | values).items()
    }


def _check_keys(kind: type, values: object, where: str) -> None:
    """Raise BadInputError for a key that no such record has, naming the nearest one."""
    if not isinstance(values, dict):
        return
    known = [one.name for one in fields(kind)]
    for key, item in values.items():
        if key not in known:
            raise BadInputError(f"unknown key {key[:80]!r} in {where}{nearest(key, known)}")
        if key in _PARTS:
            _check_keys(_PARTS[key], item, key)
