"""Export: a trained model as a checked, self-describing bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedos_deploy.lazy import lazy_names

if TYPE_CHECKING:
    from dedos_deploy.export.exporter import export_bundle
    from dedos_deploy.export.options import ExportOptions
    from dedos_deploy.export.report import ExportReport
    from dedos_deploy.export.weights import TrainedModel, WeightsSource

if __name__ == "export":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.export; this folder is a room of that package")

__all__ = ["ExportOptions", "ExportReport", "TrainedModel", "WeightsSource", "export_bundle"]

# The options are needed by --help, which must not import torch.
__getattr__ = lazy_names(
    __name__,
    {
        "exporter": "export_bundle",
        "options": "ExportOptions",
        "report": "ExportReport",
        "weights": "TrainedModel WeightsSource",
    },
)
