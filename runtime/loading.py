"""From a bundle to the parts that a Segmenter is built from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dedos_deploy.errors import BadBundleError, BadInputError, shown
from dedos_deploy.runtime.slots import Encode, Rows, Thresholds
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.spec import BACKGROUNDS
from dedos_deploy.text.templates import prompt_templates
from dedos_deploy.tiles import parse_tiles

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.confidence_curves import ConfidenceCurves
    from dedos_deploy.config_json import AnyConfig
    from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
    from dedos_deploy.runtime.engines.embedding import EmbeddingEngine
    from dedos_deploy.text.tower import TowerFiles
    from dedos_deploy.trust import TrustStatistics

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleParts:
    """What a Segmenter needs besides the engine."""

    bundle: Bundle
    encode: Encode
    thresholds: Thresholds
    tiling: Tiling
    """How frames are looked at."""

    base: tuple[tuple[str, ...], Rows] | None
    """Words and rows [M, D] of the base vocabulary where negatives are wanted, else None."""

    nulls: bool
    """Whether the graph's scores are parts of one that null words share."""

    trust: TrustStatistics | None
    """Statistics of the frames that the model can be trusted on, None where the bundle has none."""

    curves: ConfidenceCurves | None
    """What its scores are worth, None where that is not known or not wanted."""

    close: Callable[[], None]
    """Releases the bundle if it was opened here."""


def bundle_parts(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    background: str,
    threshold: float | None,
    template: str | None = None,
    tiles: str | Tiling | None = None,
    calibrated: bool = True,
) -> BundleParts:
    """Open `bundle` unless it is open, and return its parts; arguments as Segmenter.load's."""
    from dedos_deploy.bundle import Bundle

    _check_background(background)
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise BadInputError(f"threshold must lie in [0, 1], not {threshold}")
    templates = prompt_templates(template) if template is not None else None
    is_open = isinstance(bundle, Bundle)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    try:
        tiling = tiling_of(opened, tiles)
        return BundleParts(
            bundle=opened,
            encode=_text_encoder(opened, template, templates),
            thresholds=_thresholds(opened, background, threshold),
            tiling=tiling,
            base=_base(opened, template) if background == "negatives" else None,
            nulls=_has_nulls(opened.manifest.model_config),
            trust=opened.trust(),
            curves=curves_of(opened, template, tiling) if calibrated else None,
            close=_nothing if is_open else opened.close,
        )
    except BaseException:
        if not is_open:
            opened.close()
        raise


def curves_of(bundle: Bundle, template: str | None, tiling: Tiling) -> ConfidenceCurves | None:
    """Return the confidence curves of a bundle, None for one that was not calibrated.

    template: prompt templates in place of the bundle's own; the curve of each class was learned with
    those, so all classes then have the curve of all. tiling: how frames are looked at; a warning says where
    curves were learned with frames that were looked at otherwise. Raises BadBundleError for damaged ones.
    """
    curves = bundle.confidence_curves()
    if curves is not None and (other := learned_otherwise(bundle, curves, tiling)) is not None:
        _LOG.warning(
            "the confidence curves of bundle %r were learned with frames looked at through %s, and frames "
            "are looked at through %s: confidences are not known to be worth what they say; see "
            "dedos-eval --calibration, or calibrate a bundle that was exported with such tiles",
            bundle.name,
            other,
            tiling,
        )
    if curves is None or template in (None, bundle.manifest.template_name):
        return curves
    return replace(curves, by_name={})


def learned_otherwise(bundle: Bundle, curves: ConfidenceCurves, tiling: Tiling) -> str | None:
    """Return through what frames were looked at when the curves of a bundle were learned, None where
    `tiling` looks at frames in the same way."""
    learned = curves.learned.get("tiles", bundle.manifest.tiles)
    own = replace(tiling, tiles="off").is_off and (tiling.whole or tiling.tiles == "off")
    if own and str(tiling.tiles) == learned:
        return None
    return "the whole" if learned == "off" else f"tiles {learned} and the whole"


def _has_nulls(config: AnyConfig) -> bool:
    from dedos_deploy.presets import DenseConfig

    return isinstance(config, DenseConfig) and bool(config.null_words)


def open_embedding_of(bundle: Bundle, *, threads: int | None) -> EmbeddingEngine:
    """Open the graph for words by example. Raises BadInputError for a bundle that was exported without
    one, EngineError for one that cannot be loaded."""
    from dedos_deploy.runtime.engines.embedding import EmbeddingEngine

    graph = bundle.examples_graph()
    return EmbeddingEngine(graph.path, graph.spec, threads=threads)


def tiling_of(bundle: Bundle, tiles: str | Tiling | None) -> Tiling:
    """Return how frames are looked at: as `Segmenter.load` is told, None for the bundle's own way.

    Raises BadInputError for tiles that are none, or do not fit the network.
    """
    _check_kind(tiles)
    if isinstance(tiles, Tiling):
        tiling = tiles
    else:
        tiling = Tiling(parse_tiles(bundle.manifest.tiles if tiles is None else tiles))
    tiling.check((bundle.spec.height, bundle.spec.width))
    return tiling


def _check_kind(tiles: object) -> None:
    if not isinstance(tiles, str | Tiling | None):
        raise BadInputError(
            f"tiles are a text such as 'auto', '2x3' or '192', or a Tiling, not {shown(tiles)}"
        )


def open_engine_of(parts: BundleParts, target: str, options: EngineOptions) -> Engine:
    """Open the engine that labels frames of a bundle.

    options: its batch is that of frames that share a run; with tiles it takes the windows of one frame,
    as many as the bundle has a graph for. Raises as `engines.opening.open_engine` does, and BadInputError
    where frames were to share runs that the windows of each one fill.
    """
    from dedos_deploy.runtime.engines.opening import open_engine

    batch = _batch_of(parts.bundle, parts.tiling, options.batch)
    return open_engine(parts.bundle, target, replace(options, batch=batch))


def _batch_of(bundle: Bundle, tiling: Tiling, batch: int) -> int:
    if tiling.is_off:
        return batch
    if batch > 1:
        raise BadInputError(
            f"a batch of {batch} is for frames that share a run, but with tiles the windows of one frame do "
            "so, as many as the bundle has a graph for; leave the batch out, or choose tiles 'off'"
        )
    return bundle.batches[-1]


def _nothing() -> None:
    """Leave a bundle open that the caller opened."""


def _check_background(background: str) -> None:
    if background not in BACKGROUNDS:
        raise BadInputError(
            f"unknown background {background!r}; choose one of {', '.join(BACKGROUNDS)}"
        )


def _thresholds(bundle: Bundle, background: str, threshold: float | None) -> Thresholds:
    if background == "none":
        return Thresholds({}, 0.0, enabled=False)
    if threshold is not None:
        return Thresholds({}, threshold)
    return Thresholds(bundle.manifest.thresholds, bundle.manifest.default_threshold)


def _base(bundle: Bundle, template: str | None) -> tuple[tuple[str, ...], Rows]:
    base = bundle.manifest.base_vocabulary
    if base is None:
        raise BadBundleError(
            f"bundle {bundle.name!r} ships no base vocabulary to take negatives from; choose the "
            "background 'threshold' or 'none'"
        )
    if template not in (None, bundle.manifest.template_name):
        raise BadInputError(
            f"the negatives of bundle {bundle.name!r} were embedded under "
            f"{bundle.manifest.template_name!r}; with {template!r}, choose the background "
            "'threshold' or 'none'"
        )
    return bundle.vocabulary(base)


def tower_files(bundle: Bundle) -> TowerFiles:
    """Return the text tower of a bundle with its tokenizer, not opened."""
    from dedos_deploy.text.tower import TowerFiles

    manifest = bundle.manifest
    return TowerFiles(
        model=bundle.path("text_encoder.onnx"),
        tokenizer=bundle.path("tokenizer.json"),
        model_sha256=manifest.files["text_encoder.onnx"],
        tokenizer_sha256=manifest.files["tokenizer.json"],
        context_length=manifest.context_length,
        text_width=bundle.spec.text_width,
    )


def _text_encoder(
    bundle: Bundle, template: str | None, templates: tuple[str, ...] | None
) -> Encode:
    """Return the encoder of a bundle, under its own prompt templates or others."""
    from dedos_deploy.text.cache import EmbeddingCache
    from dedos_deploy.text.encoder import TextEncoder

    manifest = bundle.manifest
    own = templates is None or list(templates) == manifest.templates
    return TextEncoder(
        tower_files(bundle),
        templates=templates or tuple(manifest.templates),
        template_name=template or manifest.template_name,
        # What a bundle ships was embedded under its own templates.
        known=bundle.known_embeddings() if own else {},
        cache=EmbeddingCache(),
    ).encode
