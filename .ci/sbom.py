"""Write what a wheel of this package is made of and installs: a CycloneDX bill of materials.

    python .ci/sbom.py --output dist

builds the wheel with the nanobind of this environment, installs it with its dependencies into an
environment of its own, and lists what lies there, what is compiled into the native module, and the
embedded weights by their hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SPEC = "1.6"
WEIGHTS = ("dedos_deploy/assets/demo.dedos", "dedos_deploy/assets/nano.safetensors")
EXTRAS = "serve,bags"
"""Extras of a robot that records and is watched; the others are for making bundles."""

Component = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder (dist)")
    parser.add_argument(
        "--wheel", type=Path, help="describe this wheel, built here (default: build)"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="PYTHON",
        help="the Python it is installed for (default: install it)",
    )
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    wheel = args.wheel or build_wheel(args.output)
    with tempfile.TemporaryDirectory() as folder:
        python = args.environment or install(wheel, Path(folder))
        bill = environment_bill(python)
    complete(bill, wheel)
    text = json.dumps(bill, indent=1, ensure_ascii=False) + "\n"
    check(text)
    dest = args.output / f"{wheel.stem}.cdx.json"
    dest.write_text(text, encoding="utf-8")
    print(f"{dest}: {len(bill['components'])} components")
    return 0


def build_wheel(dest: Path) -> Path:
    """Build without isolation, so that the nanobind listed is the one compiled in."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, str(ROOT)]
        run_pip(sys.executable, *command)
        (built,) = Path(folder).glob("*.whl")
        wheel = dest / built.name
        wheel.write_bytes(built.read_bytes())
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install wheel and dependencies into `folder`; return its Python."""
    venv.create(folder)
    python = folder / "bin" / "python"
    run_pip(sys.executable, "--python", str(python), "install", f"{wheel.resolve()}[{EXTRAS}]")
    return python


def run_pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True)


def environment_bill(python: Path) -> dict[str, Any]:
    """Return the bill of everything that is installed for `python`."""
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "environment",
        "--no-validate",
        "--spec-version",
        SPEC,
        "--mc-type",
        "library",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        str(python),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def complete(bill: dict[str, Any], wheel: Path) -> None:
    """Add what no package manager knows: the wheel's hash, compiled-in code, and weights."""
    package = bill["metadata"]["component"]
    package["version"] = wheel.name.split("-")[1]
    package["hashes"] = [sha256(wheel.read_bytes())]
    added = [*compiled_in(), *weights(wheel)]
    bill["components"] = [*bill.get("components", []), *added]
    (needs,) = [row for row in bill["dependencies"] if row["ref"] == package["bom-ref"]]
    needs["dependsOn"] = [*needs.get("dependsOn", []), *(part["bom-ref"] for part in added)]


def compiled_in() -> Iterator[Component]:
    """Yield the libraries that are part of the native module."""
    import nanobind

    yield library("nanobind", version("nanobind"), "BSD-3-Clause")
    headers = Path(nanobind.include_dir()).parent / "ext/robin_map/include/tsl"
    text = (headers / "robin_growth_policy.h").read_text()
    numbers = re.findall(r"TSL_RH_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", text)
    assert len(numbers) == 3, "robin_map no longer says its version"
    yield library("robin-map", ".".join(numbers), "MIT")


def library(name: str, release: str, licence: str) -> Component:
    return {
        "type": "library",
        "bom-ref": f"native:{name}",
        "name": name,
        "version": release,
        "description": "compiled into dedos_deploy/_native",
        "licenses": [{"license": {"id": licence}}],
    }


def weights(wheel: Path) -> Iterator[Component]:
    """Yield the embedded weights as they lie in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in WEIGHTS:
            yield {
                "type": "machine-learning-model",
                "bom-ref": f"weights:{Path(name).name}",
                "name": Path(name).name,
                "description": f"{name}; sources in CREDITS.md",
                "hashes": [sha256(archive.read(name))],
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }


def sha256(content: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}


def check(text: str) -> None:
    """End with one sentence when the bill breaks CycloneDX's schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        sys.exit(f"the bill of materials is no CycloneDX {SPEC}: {fault}")


if __name__ == "__main__":
    sys.exit(main())
