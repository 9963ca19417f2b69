"""Names of a package that are imported on first use, so that --help stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package.

    homes: module within the package, or, after a dot, beside it -> the names that it has, separated by
    spaces.
    """
    module_of = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{module_of[name]}", package), name)

    return get
