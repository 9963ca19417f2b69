"""How this package was installed, so that advice names a command that works from here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "dedos-deploy"

OPENCV_OF_PIP = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Packages that bring the module cv2; a system's own OpenCV, Debian's or JetPack's, is none of them."""


def pip_install(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    A clone or a wheel is named by its path while it is there; the package is on no index, so a
    name alone stands only where whoever installed it had one (a URL, or an index of their own).
    Where the system's OpenCV is in use, the command leaves it and its NumPy in use.

    >>> pip_install("rtx").startswith("pip install ")
    True
    """
    requirement = _requirement(_origin(), extra)
    if any(map(version_of, OPENCV_OF_PIP)) or importlib.util.find_spec("cv2") is None:
        return f"pip install {requirement}"
    numpy = "'numpy<2' " if (version_of("numpy") or "").startswith("1.") else ""
    return f"pip install {numpy}{requirement} && pip uninstall --yes opencv-python"


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None for one that pip does not know."""
    found = next(iter(importlib.metadata.distributions(name=package)), None)
    return None if found is None else found.version


def _origin() -> dict[str, Any]:
    """Return what pip noted of where the package came from (PEP 610), {} for nothing."""
    try:
        text = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {"url": Path(__file__).parents[1].as_uri(), "dir_info": {}}
    return dict(json.loads(text)) if text else {}


def _requirement(origin: dict[str, Any], extra: str) -> str:
    url = str(origin.get("url", ""))
    if not url:
        return shlex.quote(f"{NAME}[{extra}]")
    if "vcs_info" in origin:
        return shlex.quote(f"{NAME}[{extra}] @ {origin['vcs_info']['vcs']}+{url}")
    if not url.startswith("file:"):
        return shlex.quote(f"{NAME}[{extra}] @ {url}")
    path = Path(unquote(urlsplit(url).path))
    if path.exists():
        return shlex.quote(f"{path}[{extra}]")
    what = "in a clone of dedos-deploy" if "dir_info" in origin else "with the wheel's own path"
    place = f".[{extra}]" if "dir_info" in origin else f"{path.name}[{extra}]"
    return f"{shlex.quote(place)} ({what})"
