"""Export: a trained model as a checked, self-describing bundle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedos_deploy.export.exporter import export_bundle
    from dedos_deploy.export.options import ExportOptions
    from dedos_deploy.export.report import ExportReport
    from dedos_deploy.export.weights import TrainedModel, WeightsSource

if __name__ == "export":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.export; this folder is a room of that package")

__all__ = ["ExportOptions", "ExportReport", "TrainedModel", "WeightsSource", "export_bundle"]

_HOMES = {
    "ExportOptions": "options",
    "ExportReport": "report",
    "TrainedModel": "weights",
    "WeightsSource": "weights",
    "export_bundle": "exporter",
}


def __getattr__(name: str) -> object:
    # Imported on first use: the options are needed by --help, which must not import torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
