"""Cases that need rclpy run in the environment of ROS; each is reported here as a test of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from ci_environments import case_names, check_case, verdicts
from ros_runs import ROOT, run_in_ros

CASES = Path(__file__).with_name("cases")


@pytest.fixture(scope="module")
def found(ros_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    report = tmp_path_factory.mktemp("cases") / "report.xml"
    said = run_in_ros(
        ros_folder,
        ros_folder / "bin/python",
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={CASES}", "--timeout=240"),
        *("-o", "python_files=cases_*.py", f"--junitxml={report}", CASES),
    )
    assert report.is_file(), said
    return verdicts(report)


@pytest.mark.parametrize("name", case_names(CASES))
def test_case(found: dict[str, str], name: str) -> None:
    check_case(found, name)


def test_units_of_the_package_pass_under_colcon(ros_folder: Path) -> None:
    workspace = ros_folder / "workspace"
    folders = ["--build-base", workspace / "build", "--install-base", workspace / "install"]
    report = workspace / "build/dedos_ros/pytest.xml"
    report.unlink(missing_ok=True)
    said = run_in_ros(
        ros_folder,
        *("colcon", "--log-base", workspace / "log", "test", "--base-paths", ROOT / "ros2"),
        *("--merge-install", *folders, "--return-code-on-test-failure"),
    )
    assert report.is_file(), said
    results = verdicts(report)
    assert len(results) > 10 and not any(results.values()), "\n".join(results.values())
