"""Wheels built as pip builds them, and virtual environments that hold one."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds one wheel and sees the packages it depends on."""

    folder: Path
    site: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


def build(kind: str, source: Path, dest: Path, settings: Mapping[str, str] | None = None) -> Path:
    """Call the build backend as pip does, in a process of its own; the built file."""
    dest.mkdir(parents=True, exist_ok=True)
    # Apart from the folder of an editable install, so that neither disturbs the other.
    settings = {"build-dir": str(dest / "build"), **(settings or {})}
    code = (
        "import json, sys; from scikit_build_core import build as backend; "
        "getattr(backend, 'build_' + sys.argv[1])(sys.argv[2], json.loads(sys.argv[3]))"
    )
    arguments = [sys.executable, "-c", code, kind, str(dest), json.dumps(settings)]
    finished = subprocess.run(arguments, cwd=source, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (built,) = dest.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def install(wheel: Path, folder: Path) -> Installed:
    """Make a virtual environment of `wheel` in `folder`."""
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # Dependencies come from the environment of the tests; its own path files are not followed
    # from here, so an editable install there stays out of sight.
    packages = [path for path in sys.path if Path(path).name.endswith("-packages")]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in packages))
    return Installed(folder, site)
