"""The bundle: one folder or `.dedos` file with everything that labelling frames needs."""

from __future__ import annotations

from dedos_deploy.bundle._names import EXAMPLES, MODEL, PARITY_FOLDER, TRUST, batch_file
from dedos_deploy.bundle.bundle import (
    DEMO_NAME,
    MOST_PARITY_FRAMES,
    PARITY_FRAME_SIDE,
    Bundle,
    BundleGraph,
)
from dedos_deploy.bundle.credits import credits_text
from dedos_deploy.bundle.manifest import FORMAT_VERSION, Manifest, created_now
from dedos_deploy.bundle.writer import BundleWriter

__all__ = [
    "DEMO_NAME",
    "EXAMPLES",
    "FORMAT_VERSION",
    "MODEL",
    "MOST_PARITY_FRAMES",
    "PARITY_FOLDER",
    "PARITY_FRAME_SIDE",
    "TRUST",
    "Bundle",
    "BundleGraph",
    "BundleWriter",
    "Manifest",
    "batch_file",
    "created_now",
    "credits_text",
]
