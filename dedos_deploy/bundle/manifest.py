"""The manifest of a bundle: what it holds, what made it, and a strict way from and to JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, cast

from dedos_deploy.bundle._names import (
    MANIFEST,
    MAX_FILES,
    REQUIRED,
    TRUST,
    clash,
    is_curves_file,
    is_safe_name,
    is_sha256,
    is_vocabulary_name,
    vocabulary_file,
)
from dedos_deploy.config_json import (
    AnyConfig,
    any_config_from_dict,
    as_written_today,
    config_kind,
)
from dedos_deploy.errors import BadBundleError, BadInputError, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.format_version import check_not_newer
from dedos_deploy.presets import Activation
from dedos_deploy.spec import PRECISIONS, GraphSpec, Target
from dedos_deploy.tiles import check_tiles, parse_tiles

FORMAT_VERSION = 1
"""Version of the bundle format that this package writes, and the newest that it reads."""

MAX_TEMPLATES = 256
"""Prompt templates of a bundle; every new word runs the text tower once for each. CLIP's own are 80."""

MAX_TEMPLATE = 500
MAX_SIDE = 16384
MAX_BATCH = 1024
MAX_POOLED = 16384


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about a bundle without reading its graphs."""

    preset: str
    """Name of the model."""

    config: dict[str, Any]
    """`to_dict()` of the model's configuration."""

    spec: GraphSpec
    """Tensors of the graph."""

    target: Target
    """What the graph was written for."""

    precision: dict[str, str]
    """One of PRECISIONS per part (`image`, `text`, ...)."""

    activation: Activation
    """Activation of the CLIP towers."""

    template_name: str
    """Name of the prompt templates."""

    templates: list[str]
    """The prompt templates, each with one `{}`."""

    context_length: int
    """Tokens per text."""

    thresholds: dict[str, float]
    """Score in [0, 1] below which a pixel stays unlabelled, by class name."""

    default_threshold: float
    """Threshold of all classes that `thresholds` does not name."""

    checkpoint_sha256: str | None
    """Hash of the file the model was exported from (None: random weights)."""

    tools: dict[str, str]
    """Versions of the tools, by name."""

    sources: list[str]
    """What the weights learned from, with credits."""

    licence: str
    """Licence of the weights."""

    created: str
    """ISO 8601 time with its offset."""

    base_vocabulary: str | None = None
    """The vocabulary that negatives are taken from."""

    calibration_hash: str | None = None
    """SHA-256 of the calibration table."""

    vocabularies: list[str] = field(default_factory=list)
    """Names of the shipped vocabularies."""

    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file but the manifest."""

    format_version: int = FORMAT_VERSION

    tiles: str = "off"
    """Windows through which large frames are looked at unless a run says otherwise, as `parse_tiles`
    reads them. Only what is not `off` is written, so that versions before tiles read all other bundles."""

    @property
    def model_config(self) -> AnyConfig:
        """The model's configuration as a record."""
        return any_config_from_dict(self.config)

    def to_json(self) -> str:
        """Return the manifest as JSON text that `from_json` accepts.

        Raises BadBundleError when a value could not be read back, naming its field.
        """
        values = asdict(self)
        # Read by versions that know of neither; they refuse a bundle that has one.
        if not self.spec.pooled_width:
            del values["spec"]["pooled_width"]
        if self.tiles == "off":
            del values["tiles"]
        try:
            text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise BadBundleError(
                f"{MANIFEST}: a field cannot be stored as JSON: {error}"
            ) from error
        Manifest.from_json(text)
        return text + "\n"

    @staticmethod
    def from_json(text: str, *, where: str = MANIFEST) -> Manifest:
        """Return the manifest in a JSON text, with every field checked.

        where: what the text is called in messages.

        Raises UnsupportedVersionError for a newer format, and BadBundleError naming the first
        field that is unknown, missing, mistyped, or at odds with another one.
        """
        try:
            values = load_json(text)
            if not isinstance(values, dict):
                raise FieldError("must hold one JSON object")
            _check_version(values, where)
            manifest = _parse(values)
        except FieldError as error:
            raise BadBundleError(f"{where}: {error}") from error
        problem = next(_problems(manifest), None)
        if problem is not None:
            raise BadBundleError(f"{where}: {problem}")
        return manifest


def created_now() -> str:
    """Return the present time in UTC as `Manifest.created` wants it, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _check_version(values: dict[str, object], where: str) -> None:
    version = values.get("format_version")
    check_not_newer(version, FORMAT_VERSION, what=f"{where}: field 'format_version'")
    # Checked before all else: in another format, every other key may mean something else.
    checked(Literal[1], version, "format_version")


def _parse(values: dict[str, object]) -> Manifest:
    raw_config = values.get("config")
    if raw_config is None:
        raise FieldError("key 'config' is missing")
    try:
        # For its messages only: any_config_from_dict makes the record, as for checkpoints.
        checked(config_kind(raw_config), as_written_today(raw_config), "config")
        config = any_config_from_dict(cast(dict[str, Any], raw_config)).to_dict()
    except BadInputError as error:
        raise FieldError(f"field 'config' is not usable: {error}") from error
    spec = values.get("spec")
    if isinstance(spec, dict):
        values = {**values, "spec": {"pooled_width": 0, **spec}}
    manifest: Manifest = checked(Manifest, {"tiles": "off", **values, "config": config}, "")
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield what does not fit together, in the order of the fields."""
    yield from _model_problems(manifest)
    yield from _text_problems(manifest)
    yield from _file_problems(manifest)
    if not _is_iso_time(manifest.created):
        yield (
            f"field 'created' must be an ISO 8601 time with its offset, not "
            f"{shown(manifest.created)}"
        )
    for name in ("checkpoint_sha256", "calibration_hash"):
        digest = getattr(manifest, name)
        if digest is not None and not is_sha256(digest):
            yield f"field {name!r} must be a SHA-256 in hexadecimal, not {shown(digest)}"


def _model_problems(manifest: Manifest) -> Iterator[str]:
    config, spec = manifest.model_config, manifest.spec
    pairs = (
        ("preset", manifest.preset, "config.preset", config.preset),
        ("activation", manifest.activation, "config.clip.activation", config.clip.activation),
        ("spec.text_width", spec.text_width, "config.clip.text_width", config.clip.text_width),
        (
            "context_length",
            manifest.context_length,
            "config.clip.text.context_length",
            config.clip.text.context_length,
        ),
    )
    for field_name, value, other, expected in pairs:
        if value != expected:
            yield f"field {field_name!r} is {shown(value)}, but {other!r} is {shown(expected)}"
    if not manifest.preset:
        yield "field 'preset' must not be empty"
    if spec.batch < 1:
        yield f"field 'spec.batch' must be at least 1, not {spec.batch}"
    if spec.batch > MAX_BATCH:
        yield f"field 'spec.batch' must be at most {MAX_BATCH}, not {spec.batch}"
    if max(spec.height, spec.width) > MAX_SIDE:
        yield (
            f"fields 'spec.height' and 'spec.width' must be at most {MAX_SIDE}, not "
            f"{spec.height} and {spec.width}"
        )
    if not 0 <= spec.pooled_width <= MAX_POOLED:
        yield f"field 'spec.pooled_width' must lie in [0, {MAX_POOLED}], not {spec.pooled_width}"
    if spec.score_dtype == "uint8":
        yield "field 'spec.score_dtype' must be 'float32' or 'float16', not 'uint8'"
    try:
        config.check_size((spec.height, spec.width))
    except BadInputError as error:
        yield f"fields 'spec.height' and 'spec.width' do not fit: {error}"
    try:
        check_tiles(parse_tiles(manifest.tiles), (spec.height, spec.width))
    except BadInputError as error:
        yield f"field 'tiles' is not usable: {error}"
    for part, precision in manifest.precision.items():
        if precision not in PRECISIONS:
            allowed = ", ".join(map(repr, PRECISIONS))
            yield (
                f"field {shown(f'precision.{part}')} must be one of {allowed}, "
                f"not {shown(precision)}"
            )


def _text_problems(manifest: Manifest) -> Iterator[str]:
    if not manifest.templates:
        yield "field 'templates' must hold at least one prompt template"
    if len(manifest.templates) > MAX_TEMPLATES:
        yield f"field 'templates' holds {len(manifest.templates)}, more than {MAX_TEMPLATES}"
    for index, template in enumerate(manifest.templates):
        if template.count("{}") != 1:
            yield (
                f"field 'templates[{index}]' must have one {{}} for the word, not {shown(template)}"
            )
        if len(template) > MAX_TEMPLATE:
            yield f"field 'templates[{index}]' has more than {MAX_TEMPLATE} characters"
    scores = {"default_threshold": manifest.default_threshold}
    scores |= {f"thresholds.{name}": value for name, value in manifest.thresholds.items()}
    for name, value in scores.items():
        if not 0 <= value <= 1:
            yield f"field {shown(name)} must lie in [0, 1], not {shown(value)}"


def _file_problems(manifest: Manifest) -> Iterator[str]:
    if len(manifest.files) > MAX_FILES:
        yield f"field 'files' lists {len(manifest.files)} files, more than {MAX_FILES}"
    for name, digest in manifest.files.items():
        if not is_safe_name(name) or name == MANIFEST:
            yield f"field 'files' lists {shown(name)}, which cannot be the name of a bundle's file"
        if not is_sha256(digest):
            yield (
                f"field {shown(f'files.{name}')} must be a SHA-256 in hexadecimal, "
                f"not {shown(digest)}"
            )
    problem = clash([*manifest.files, MANIFEST])
    if problem is not None:
        yield f"field 'files' is ambiguous: {problem}"
    for name in REQUIRED:
        if name not in manifest.files:
            yield f"field 'files' does not list {name!r}, which every bundle needs"
    if (TRUST in manifest.files) != (manifest.spec.pooled_width > 0):
        yield (
            f"field 'spec.pooled_width' is {manifest.spec.pooled_width}, but 'files' "
            f"{'lists' if TRUST in manifest.files else 'does not list'} {TRUST!r}; one needs the other"
        )
    if sum(map(is_curves_file, manifest.files)) > 1:
        yield "field 'files' lists confidence curves twice; a bundle has one file of them"
    yield from _vocabulary_problems(manifest)


def _vocabulary_problems(manifest: Manifest) -> Iterator[str]:
    listed = set()
    for index, name in enumerate(manifest.vocabularies):
        if not is_vocabulary_name(name) or name in listed:
            yield f"field 'vocabularies[{index}]' must be a new plain name, not {shown(name)}"
        listed.add(name)
        if vocabulary_file(name) not in manifest.files:
            yield (
                f"field 'files' does not list {vocabulary_file(name)!r}, which "
                f"'vocabularies[{index}]' needs"
            )
    base = manifest.base_vocabulary
    if base is not None and base not in listed:
        yield f"field 'base_vocabulary' is {shown(base)}, which 'vocabularies' does not list"


def _is_iso_time(text: str) -> bool:
    try:
        # Python 3.10 does not read the Z that stands for UTC.
        return datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None
    except ValueError:
        return False
