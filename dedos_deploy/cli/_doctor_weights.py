"""`dedos-doctor --weights`: published weights as findings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dedos_deploy.model.hub_files import cache_folder, is_offline
from dedos_deploy.model.published_weights import State, Weights, published_weights
from dedos_deploy.runtime.findings import Finding, Verdict

_VERDICTS: dict[State, Verdict] = {
    "absent": "note",
    "cached": "ok",
    "unverified": "ok",
    "damaged": "bad",
}
_STATES: dict[State, str] = {
    "absent": "not on this machine",
    "cached": "cached, with the published SHA-256",
    "unverified": "cached, with no hash to hold it against",
    "damaged": "damaged in the cache",
}


def weight_findings() -> tuple[list[Finding], dict[str, Any]]:
    """Return the findings for people, and the same for machines."""
    weights, cache, offline = published_weights(), cache_folder(), is_offline()
    asked = "HF_HUB_OFFLINE is set: nothing is fetched" if offline else "what is missing is fetched"
    first = Finding("cache", "ok", f"{cache}; {asked}")
    report = {
        "cache": str(cache),
        "offline": offline,
        "weights": [asdict(one) for one in weights],
    }
    return [first, *map(_finding, weights)], report


def _finding(weights: Weights) -> Finding:
    size = "" if weights.bytes is None else f", {weights.bytes / 1e9:.2f} GB"
    where = weights.path or f"{weights.file} of {weights.address}"
    found = f"{_STATES[weights.state]}{size}; licence: {weights.licence}; {where}"
    return Finding(weights.use, _VERDICTS[weights.state], found, weights.problem)
