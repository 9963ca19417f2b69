"""What the package is made of: credits, licences, bounds of dependencies, the bill of materials."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from glob import glob
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheels import ROOT, build, install

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.bundle import Bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The newest version with a hole that is known and within reach of this package; docs/security.md
# says which. Two of OpenCV's lie above its lower bound.
HOLES = {
    "opencv-python": ["4.8.0.76", "4.10.0.84", "4.11.0.86"],
    "starlette": ["0.49.0", "1.3.0"],
    "h11": ["0.15.0"],
    "fastapi": ["0.109.0"],
    "protobuf": ["6.33.4"],
    "torch": ["2.9.1"],
    "onnx": ["1.20.1"],
    "transformers": ["4.53.0", "5.4.0"],
    "diffusers": ["0.37.1"],
    "tqdm": ["4.66.2"],
}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def requirements() -> list[Requirement]:
    """What the package and its extras install; tools of developers are not passed on."""
    extras = project()["optional-dependencies"]
    texts = [
        *project()["dependencies"],
        *(t for name in extras if name != "dev" for t in extras[name]),
    ]
    return [Requirement(text) for text in texts]


def test_credits_name_every_source_of_the_embedded_weights() -> None:
    from safetensors import safe_open

    with Bundle.open("demo") as bundle:
        sources = bundle.manifest.sources
    with safe_open(str(assets_path(EMBEDDED_WEIGHTS)), "numpy") as weights:
        record = json.loads(weights.metadata()["dedos"])
    lines = (ROOT / "CREDITS.md").read_text().splitlines()
    listed = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert sorted(listed) == sorted(sources)
    assert set(record["extra"]["sources"]) == set(sources)


def test_third_party_software_is_named_with_its_licence() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text()
    rows = re.findall(r"^\|[^|]*\| ([\w-]+) \| ([^|]+) \|$", text, re.MULTILINE)
    licences = {canonicalize_name(name): licence for name, licence in rows}
    assert not {canonicalize_name(r.name) for r in requirements()} - licences.keys()
    # What is compiled in must carry its text along.
    for holder in ("Wenzel Jakob", "Thibaut Goetghebuer-Planchon", "OpenAI", "Gabriel Ilharco"):
        assert re.search(f"Copyright \\(c\\) .*{holder}", text)


def test_advice_names_extras_that_exist() -> None:
    calls = re.compile(
        r"""extra="(\w+)", purpose|pip_install\(['"](\w+)|['"](?:\.|dedos-deploy)\[([\w,]+)\]"""
    )
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docker/Dockerfile.*")]
    # The rooms at the root are links inside the package.
    sources = [Path(f) for f in glob(f"{ROOT}/dedos_deploy/**/*.py", recursive=True)]
    named = {
        name
        for path in (*pages, *sources)
        for found in calls.findall(path.read_text())
        for name in "".join(found).split(",")
    }
    assert {"cuda12", "cuda13", "rtx", "export"} <= named
    assert named <= project()["optional-dependencies"].keys()


@pytest.mark.parametrize(
    ("extra", "taken", "refused"),
    [
        ("cuda12", ["12.9.0", "12.9.10"], ["12.6.0", "12.8.0", "13.0.0"]),
        ("cuda13", ["13.0.0", "13.4.4"], ["12.9.10", "14.0.0"]),
    ],
)
def test_bindings_are_of_the_cuda_that_the_extra_names(
    extra: str, taken: list[str], refused: list[str]
) -> None:
    listed = [Requirement(text) for text in project()["optional-dependencies"][extra]]
    (bindings,) = [r.specifier for r in listed if r.name == "cuda-python"]
    assert all(version in bindings for version in taken)
    assert not any(version in bindings for version in refused)


@pytest.mark.parametrize(("name", "version"), [(n, v) for n in HOLES for v in HOLES[n]])
def test_no_version_with_a_known_hole_is_accepted(name: str, version: str) -> None:
    found = [r for r in requirements() if canonicalize_name(r.name) == name]
    assert found
    for requirement in found:
        assert version not in requirement.specifier, f"{requirement} takes {version}"


def test_containers_take_no_version_with_a_known_hole() -> None:
    """Dockerfiles that leave OpenCV to the system name all other packages themselves."""
    for path in (ROOT / "docker").glob("Dockerfile.jetpack*"):
        texts = re.findall(r'"([\w-]+[<>=!][^"]*)"', path.read_text())
        found = {canonicalize_name(r.name): r.specifier for r in map(Requirement, texts)}
        assert {"fastapi", "starlette", "h11", "uvicorn"} <= found.keys()
        for name, specifier in found.items():
            assert not [v for v in HOLES.get(name, ()) if v in specifier], f"{path.name}: {name}"


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The bill of a wheel beside what it needs at least; nothing is fetched."""
    pytest.importorskip("cyclonedx_py", reason="needs the extra release")
    folder = tmp_path_factory.mktemp("sbom")
    wheel = build("wheel", ROOT, folder / "wheel", {"cmake.define.DEDOS_CUDA": "OFF"})
    installed = install(wheel, tmp_path_factory.mktemp("venv"))
    # Not everything that developers have: checking against the schema takes time by the square.
    (installed.site / "dependencies.pth").unlink()
    for text in project()["dependencies"]:
        found = distribution(Requirement(text).name)
        (metadata,) = [file for file in found.files or () if file.name == "METADATA"]
        known = Path(str(found.locate_file(metadata))).parent
        (installed.site / known.name).symlink_to(known)
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / ".ci" / "sbom.py"),
            "--output",
            str(folder),
            "--wheel",
            str(wheel),
            "--environment",
            str(installed.python),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = folder.glob("dedos_deploy-*.cdx.json")
    return json.loads(written.read_text()), wheel


@pytest.mark.slow
def test_the_bill_names_package_dependencies_native_parts_and_weights(
    bill: tuple[dict[str, Any], Path],
) -> None:
    content, wheel = bill
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.6")
    package = content["metadata"]["component"]
    assert (package["name"], package["version"]) == ("dedos-deploy", project()["version"])
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert package["hashes"] == [{"alg": "SHA-256", "content": digest}]
    parts = {canonicalize_name(part["name"]): part for part in content["components"]}
    assert "dedos-deploy" not in parts
    for requirement in project()["dependencies"]:
        part = parts[canonicalize_name(Requirement(requirement).name)]
        assert part["version"] and part["purl"].startswith("pkg:pypi/")
    for name in ("nanobind", "robin-map"):
        assert re.fullmatch(r"[\d.]+", parts[name]["version"]) and parts[name]["licenses"]
    with zipfile.ZipFile(wheel) as archive:
        demo = hashlib.sha256(archive.read("dedos_deploy/assets/demo.dedos")).hexdigest()
    assert parts["demo-dedos"]["type"] == "machine-learning-model"
    assert parts["demo-dedos"]["hashes"] == [{"alg": "SHA-256", "content": demo}]
    references = [part["bom-ref"] for part in content["components"]]
    (own,) = [row for row in content["dependencies"] if row["ref"] == package["bom-ref"]]
    assert set(own["dependsOn"]) <= set(references)
    assert {"native:nanobind", "weights:demo.dedos"} <= set(own["dependsOn"])
    assert len(set(references)) == len(references)
