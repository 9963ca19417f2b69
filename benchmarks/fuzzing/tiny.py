"""The tests' colour detector as a bundle: small enough to be opened thousands of times."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from fuzzing.mutators import json_bytes
from fuzzing.tensor_files import settled

MANIFEST = "manifest.json"


VOCABULARY = "vocabularies/base.safetensors"
REPORT = "report.json"


def write_bundle(folder: Path) -> Path:
    """Write the bundle that benchmarks/soak.py uses, too, with a report, and return its folder."""
    tests = str(Path(__file__).parents[2] / "tests" / "runtime")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    from tiny_bundle import write_tiny_bundle

    files = read_files(write_tiny_bundle(folder))
    files[VOCABULARY] = settled(files[VOCABULARY])
    files[REPORT] = json_bytes({"agreement": 1.0, "classes": ["red"], "parity": {"mean": 0.5}})
    files[MANIFEST] = json_bytes(consistent_manifest(files))
    return write_files(files, folder)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a bundle's folder by name, the manifest among them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def consistent_manifest(files: dict[str, bytes]) -> dict[str, Any]:
    """Return the manifest of a bundle's files with the hashes that they have."""
    manifest: dict[str, Any] = json.loads(files[MANIFEST])
    manifest["files"] = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name != MANIFEST
    }
    return manifest


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files of a bundle to a folder and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
