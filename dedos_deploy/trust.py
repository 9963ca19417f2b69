"""How much a frame looks like those that a model learned: statistics of their pooled features, and a file of them.

Pooled features come in blocks, each of one kind of map. In each block a frame lies at a distance from every
kind of frame that the model learned: Mahalanobis in the kind's first directions, and what is left in all
others beside what is left of the kind. The nearest kind counts in every block, and the block in which the
frame is farthest, beside what 5 % of the learned frames exceed there. How many learned frames are farther
makes the trust. For both, distances are of frames that the statistics beside them were made without.

Layout: safetensors with a set of tensors per block, `quantiles` float32 [101], and string metadata: `format`,
`version`, and `frames` and `data_sha256`, JSON lists with an entry per kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadBundleError, BadInputError, shown
from dedos_deploy.format_version import check_not_newer
from dedos_deploy.safetensors_metadata import is_version, metadata_of
from dedos_deploy.spec import TRUST_LINE

FORMAT = "dedos-trust"
VERSION = 1

ALARMS = 0.05
"""Part of the frames of the learned kinds that lies below TRUST_LINE."""

LEVELS = 101
"""Of the stored distances: those that 0, 1, … 100 % of the learned frames do not exceed."""

RANK = 16
"""Most directions of a kind that have a variance of their own."""

SHRINKAGE = 0.3
"""Part of a kind's variances that is the mean of all kinds', since a kind may be one short walk."""

FOLDS = 5
"""Stretches of time of a kind, of which each is looked at from the others: neighbouring frames are alike."""

STILL = 0.01
"""Part of the mean deviation of a block's features that is added to each, so that one which hardly moved
among the learned frames does not outweigh all others as soon as it does."""

_LEAST = 1e-6

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Kind:
    """Frames of one kind that a model learned."""

    source: str
    """Where they came from."""

    data_sha256: str
    """Hash of their pixels."""

    pooled: Rows
    """float32 [N, P], in order of time."""


@dataclass(frozen=True, eq=False)
class BlockStatistics:
    """One block of features, S of the P, for M kinds in R directions."""

    scale: Values
    """[S], what features are divided by."""

    mean: Values
    """[M, S], of scaled features, as all below."""

    basis: Values
    """[M, S, R], orthonormal columns."""

    variance: Values
    """[M, R], along the columns."""

    rest: Values
    """[M], of all else together."""

    limit: float = 1.0
    """Distance that ALARMS of the learned frames exceed."""

    def distances(self, features: Values) -> Values:
        """Return, [N], how far rows [N, S] are from the nearest kind; about 2 within it."""
        scaled = features / self.scale
        away = scaled[None] - self.mean[:, None]
        along = np.einsum("mns,msr->mnr", away, self.basis)
        beside = (away**2).sum(-1) - (along**2).sum(-1)
        near = (along**2 / self.variance[:, None]).mean(-1) + beside / self.rest[:, None]
        return np.asarray(near.min(axis=0))


@dataclass(frozen=True, eq=False)
class TrustStatistics:
    """What is known of the frames that a model can be trusted on."""

    blocks: tuple[BlockStatistics, ...]
    """In the order of their features."""

    quantiles: Values
    """[LEVELS], growing: distances in limits that so many of the learned frames do not exceed."""

    frames: tuple[int, ...]
    """Number of frames per kind."""

    data_sha256: tuple[str, ...]
    """Hash of their pixels, per kind."""

    @property
    def width(self) -> int:
        """P."""
        return sum(len(block.scale) for block in self.blocks)

    def of(self, pooled: Rows) -> float:
        """Return the trust in [0, 1] of a frame, by its pooled features float32 [P].

        1 for a frame as near as nine of ten of those that were learned, TRUST_LINE where one of twenty is
        farther, 0 beyond all of them and for features that are no numbers.
        """
        if not np.isfinite(pooled).all():
            return 0.0
        distance = self.distances(pooled[None].astype(np.float64))[0]
        nearer = np.interp(distance, self.quantiles, np.linspace(0, 1, len(self.quantiles)))
        return float(min(1.0, TRUST_LINE * (1 - nearer) / ALARMS))

    def distances(self, pooled: Values) -> Values:
        """Return, [N], how far rows [N, P] are, in limits of the block where each is farthest."""
        parts = _split(pooled, [len(block.scale) for block in self.blocks])
        found = [
            block.distances(part) / block.limit
            for block, part in zip(self.blocks, parts, strict=True)
        ]
        return np.asarray(np.max(found, axis=0))


def doubt_of(trust: float | None) -> str | None:
    """Return, in one sentence part, why a frame's labels are to be doubted; None where they are not."""
    if trust is None or trust >= TRUST_LINE:
        return None
    return (
        f"the picture looks unlike those that the model learned (trust {trust:.2f}): doubt its labels, "
        "however confident"
    )


def fit_trust(kinds: Sequence[Kind], widths: Sequence[int]) -> TrustStatistics:
    """Return the statistics of frames of one kind or more, each of FOLDS frames at least.

    widths: of the blocks of their features.

    Raises BadInputError for frames that are all alike in a block, or whose features are no numbers.
    """
    _check_told_apart(kinds, widths)
    blocks, held = [], []
    weights = np.concatenate([np.full(len(kind.pooled), 1 / len(kind.pooled)) for kind in kinds])
    parted = [_split(kind.pooled.astype(np.float64), widths) for kind in kinds]
    for number in range(len(widths)):
        rows = [parts[number] for parts in parted]
        scale = _scale_of(rows)
        held.append(_held_distances(rows, scale))
        limit = float(_quantiles(held[-1], weights, np.array([1 - ALARMS]))[0])
        blocks.append(replace(_fitted(rows, scale), limit=limit))
        held[-1] /= limit
    quantiles = _quantiles(np.max(held, axis=0), weights, np.linspace(0, 1, LEVELS))
    frames, hashes = zip(*((len(k.pooled), k.data_sha256) for k in kinds), strict=True)
    # As the file has them, so that the same statistics give the same trust before and after.
    return trust_from_bytes(
        trust_to_bytes(TrustStatistics(tuple(blocks), quantiles, frames, hashes)),
        width=sum(widths),
        name="statistics",
    )


def _split(pooled: Values, widths: Sequence[int]) -> list[Values]:
    return np.split(pooled, np.cumsum(widths)[:-1], axis=1)


def _check_told_apart(kinds: Sequence[Kind], widths: Sequence[int]) -> None:
    for kind in kinds:
        if not np.isfinite(kind.pooled).all():
            at = int(np.flatnonzero(~np.isfinite(kind.pooled).all(axis=1))[0])
            raise BadInputError(
                f"of frame {at} of {kind.source!r} the graph gives features that are no numbers; export "
                "in a higher precision, or leave such frames out of --trust"
            )
    moving = [
        [np.ptp(part, axis=0).any() for part in _split(kind.pooled.astype(np.float64), widths)]
        for kind in kinds
    ]
    if not np.any(moving, axis=0).all():
        names = ", ".join(repr(kind.source) for kind in kinds)
        raise BadInputError(
            f"to this model all frames of {names} look the same, so that nothing can be told from them; "
            "give --trust frames in which something moves, or weights that have learned"
        )


def _scale_of(kinds: Sequence[Values]) -> Values:
    """Return what features are divided by, [S]: of all frames, also where some are held out, since a
    feature may be still in all stretches of time but one."""
    deviation = np.concatenate(kinds).std(axis=0)
    return np.asarray(deviation + STILL * deviation.mean() + _LEAST)


def _fitted(kinds: Sequence[Values], scale: Values) -> BlockStatistics:
    """Return the statistics of kinds of rows [N, S], divided by `scale`."""
    scaled = [rows / scale for rows in kinds]
    means = [rows.mean(axis=0) for rows in scaled]
    within = np.concatenate([rows - mean for rows, mean in zip(scaled, means, strict=True)])
    usual = float(within.var(axis=0).mean()) + _LEAST
    rank = min(RANK, len(scale), *(len(rows) - 1 for rows in kinds))
    basis, variance, rest = [], [], []
    for rows, mean in zip(scaled, means, strict=True):
        _, singular, directions = np.linalg.svd(rows - mean, full_matrices=False)
        own = singular**2 / len(rows)
        basis.append(directions[:rank].T)
        variance.append((1 - SHRINKAGE) * own[:rank] + SHRINKAGE * usual)
        others = max(len(scale) - rank, 1)
        rest.append((1 - SHRINKAGE) * own[rank:].sum() + SHRINKAGE * usual * others)
    return BlockStatistics(
        scale, np.array(means), np.array(basis), np.array(variance), np.array(rest)
    )


def _held_distances(kinds: Sequence[Values], scale: Values) -> Values:
    """Return the distance of every row of all kinds, in their order, from the others' statistics."""
    places = [np.array_split(np.arange(len(rows)), FOLDS) for rows in kinds]
    found = [np.empty(len(rows)) for rows in kinds]
    for fold in range(FOLDS):
        kept = [np.delete(rows, at[fold], axis=0) for rows, at in zip(kinds, places, strict=True)]
        block = _fitted(kept, scale)
        for rows, at, distances in zip(kinds, places, found, strict=True):
            distances[at[fold]] = block.distances(rows[at[fold]])
    return np.concatenate(found)


def _quantiles(values: Values, weights: Values, levels: Values) -> Values:
    """Return the values that parts `levels` of all weight do not exceed."""
    order = np.argsort(values)
    below = np.cumsum(weights[order]) / weights.sum()
    return np.asarray(np.interp(levels, below, values[order]))


_TENSORS = ("scale", "mean", "basis", "variance", "rest", "limit")


def trust_to_bytes(statistics: TrustStatistics) -> bytes:
    """Return the content of a file of statistics."""
    from safetensors.numpy import save

    tensors = {"quantiles": statistics.quantiles.astype(np.float32)}
    for number, block in enumerate(statistics.blocks):
        for name in _TENSORS:
            dtype = np.float16 if name == "basis" else np.float32
            values = np.asarray(getattr(block, name)).astype(dtype)
            tensors[f"{number}.{name}"] = np.ascontiguousarray(np.atleast_1d(values))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "frames": json.dumps(statistics.frames),
        "data_sha256": json.dumps(statistics.data_sha256),
    }
    return bytes(save(tensors, metadata=metadata))


def trust_from_bytes(content: bytes, *, width: int, name: str) -> TrustStatistics:
    """Return what `trust_to_bytes` wrote.

    width: P of the graph; name: of the file, for messages. Raises BadBundleError for one that is damaged or
    of another graph, UnsupportedVersionError for one of a newer version.
    """
    from safetensors.numpy import load

    with foreign(lambda why: BadBundleError(f"{name} is damaged ({why}); export the bundle again")):
        tensors = load(content)
    frames, hashes = _said(content, name)
    problem = next(_problems(tensors, len(frames), width), None)
    if problem is not None:
        raise BadBundleError(f"{name} is damaged ({problem}); export the bundle again")
    wide = {key: values.astype(np.float64) for key, values in tensors.items()}
    blocks = []
    for number in range((len(wide) - 1) // len(_TENSORS)):
        scale, mean, basis, variance, rest, limit = (wide[f"{number}.{key}"] for key in _TENSORS)
        blocks.append(BlockStatistics(scale, mean, basis, variance, rest, float(limit[0])))
    return TrustStatistics(tuple(blocks), wide["quantiles"], frames, hashes)


def _said(content: bytes, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return frames and hashes of the kinds."""
    said = metadata_of(content)
    version = said.get("version", "")
    if said.get("format") != FORMAT or not is_version(version):
        raise BadBundleError(f"{name} has no format {FORMAT!r}; export the bundle again")
    check_not_newer(int(version), VERSION, what=f"{name}: its version")
    try:
        frames, hashes = (json.loads(said.get(key, "")) for key in ("frames", "data_sha256"))
    except (ValueError, RecursionError):
        frames = hashes = None
    if not (
        isinstance(frames, list)
        and isinstance(hashes, list)
        and 0 < len(frames) == len(hashes)
        and all(type(one) is int for one in frames)
        and all(isinstance(one, str) for one in hashes)
    ):
        raise BadBundleError(f"{name} does not say what it was made of; export the bundle again")
    return tuple(frames), tuple(hashes)


def _problems(tensors: dict[str, npt.NDArray[np.generic]], kinds: int, width: int) -> Iterator[str]:
    count = (len(tensors) - 1) // len(_TENSORS)
    names = {f"{number}.{key}" for number in range(count) for key in _TENSORS} | {"quantiles"}
    if count < 1 or set(tensors) != names:
        yield f"it holds the tensors {shown(sorted(tensors))}"
        return
    for name, values in tensors.items():
        if values.dtype != (np.float16 if name.endswith("basis") else np.float32):
            yield f"{name} is {values.dtype}"
        elif not np.isfinite(values.astype(np.float64)).all():
            yield f"{name} has a value that is no number"
    total = 0
    for number in range(count):
        scale, basis = tensors[f"{number}.scale"], tensors[f"{number}.basis"]
        size, rank = scale.size, basis.shape[-1] if basis.ndim == 3 else 0
        total += size
        shapes = ((size,), (kinds, size), (kinds, size, rank), (kinds, rank), (kinds,), (1,))
        for key, shape in zip(_TENSORS, shapes, strict=True):
            if tensors[f"{number}.{key}"].shape != shape or 0 in shape:
                found = list(tensors[f"{number}.{key}"].shape)
                yield f"{number}.{key} is {shown(found)}, not {list(shape)}"
        for key in ("scale", "variance", "rest", "limit"):
            if not (tensors[f"{number}.{key}"].astype(np.float64) > 0).all():
                yield f"{number}.{key} has a value that is not above 0"
    if total != width:
        yield f"it is of {total} features, and the graph gives {width}"
    quantiles = tensors["quantiles"]
    if quantiles.shape != (LEVELS,) or (np.diff(quantiles.astype(np.float64)) < 0).any():
        yield f"quantiles are not {LEVELS} growing distances"
