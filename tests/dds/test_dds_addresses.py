"""Addresses of topics, and whom a process looks for."""

from __future__ import annotations

import sys
from xml.etree import ElementTree as ET

import pytest

from dedos_deploy.cli.run import main
from dedos_deploy.errors import BadInputError, MissingExtraError, SinkError, SourceError
from dedos_deploy.runtime import open_sink, open_source
from dedos_deploy.runtime.dds_address import discovery_config, parse_topic
from dedos_deploy.runtime.sinks.opening import check_topics_apart


def test_an_address_says_topic_domain_and_quality() -> None:
    found = parse_topic(
        "ros2:/front/image_raw?domain=7&reliability=best_effort&depth=2",
        {"ROS_DOMAIN_ID": "3"},
        refusal=SourceError,
        reliabilities=("auto", "best_effort"),
    )
    assert (found.name, found.domain) == ("/front/image_raw", 7)
    assert (found.reliability, found.depth, found.settings) == ("best_effort", 2, {})


def test_the_domain_is_the_environments_where_none_is_named() -> None:
    def domain(**environment: str) -> int:
        return parse_topic(
            "ros2:/a", environment, refusal=SourceError, reliabilities=("auto",)
        ).domain

    assert (domain(), domain(ROS_DOMAIN_ID=""), domain(ROS_DOMAIN_ID="42")) == (0, 0, 42)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ros2:camera", "names no topic; write ros2:/camera/image"),
        ("ros2:/camera//image", "names no topic"),
        ("ros2:/2nd", "no digit at the start"),
        (
            "ros2:/a?realiability=auto",
            "unknown setting 'realiability', did you mean 'reliability'?",
        ),
        ("ros2:/a?also=overlay", "unknown setting 'also'; it takes domain, reliability, depth"),
        ("ros2:/a?reliability=besteffort", "not 'besteffort', did you mean 'best_effort'?"),
        ("ros2:/a?domain=3&depth=2&domain=4", "has the setting 'domain' twice; write it once"),
        ("ros2:/a?domain=233", "domain is a whole number from 0 to 232, not '233'"),
        ("ros2:/a?depth=0", "depth is a whole number from 1 to 100, not '0'"),
    ],
)
def test_sources_that_are_not_well_formed_are_refused(uri: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(uri)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ros2:dedos", "names no topic"),
        ("ros2:/dedos?als=overlay", "unknown setting 'als', did you mean 'also'?"),
        ("ros2:/dedos?also=overlay,confidnce", "not 'confidnce', did you mean 'confidence'?"),
        ("ros2:/dedos?also=", "also is confidence or overlay or resized, not ''"),
        ("ros2:/dedos?mask=mono32", "mask is mono8 or mono16, not 'mono32'"),
        ("ros2:/dedos?reliability=auto", "reliability is reliable or best_effort, not 'auto'"),
    ],
)
def test_outputs_that_are_not_well_formed_are_refused(uri: str, reason: str) -> None:
    with pytest.raises(SinkError) as caught:
        open_sink(uri)
    assert reason in str(caught.value)


def test_a_topic_that_can_never_come_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--source", "test:bars?frames=1", "--classes", "road", "--output", "null"]
    assert main([*asked, "--source", "ros2:/cam?dmain=3", "--max-frames", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: 'ros2:/cam?dmain=3' has an unknown setting 'dmain'" in line


def test_two_outputs_of_the_same_topics_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--source", "test:bars?frames=1", "--classes", "road", "--output", "ros2:/dedos"]
    assert main([*asked, "--output", "ros2:/dedos?also=overlay&domain=0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output 'ros2:/dedos' and output 'ros2:/dedos?also=overlay&domain=0' publish the" in line
    with pytest.raises(BadInputError, match="'ros2:/dedos' and output 'ros2:/dedos' publish"):
        check_topics_apart(2 * ["ros2:/dedos"])
    check_topics_apart(["ros2:/dedos", "ros2:/dedos?domain=1", "ros2:/other", "null"])


def discovery(**environment: str) -> tuple[str | None, list[str], list[str]]:
    """Whether multicast is allowed, the interfaces and the peers of a configuration."""
    config = discovery_config(environment, refusal=SourceError)
    assert config is not None
    root = ET.fromstring(config)
    return (
        root.findtext("./Domain/General/AllowMulticast"),
        [one.attrib["address"] for one in root.iter("NetworkInterface")],
        [one.attrib["address"] for one in root.iter("Peer")],
    )


def test_whom_a_process_looks_for_is_what_ros_says() -> None:
    here = ("false", ["127.0.0.1"], ["127.0.0.1"])
    assert discovery() == discovery(ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST") == here
    assert discovery(ROS_LOCALHOST_ONLY="1", ROS_AUTOMATIC_DISCOVERY_RANGE="SUBNET") == here
    assert discovery(ROS_STATIC_PEERS="10.0.0.5; localhost;") == (
        "false",
        [],
        ["127.0.0.1", "10.0.0.5", "127.0.0.1"],
    )
    assert discovery(ROS_AUTOMATIC_DISCOVERY_RANGE="SUBNET", ROS_STATIC_PEERS="10.0.0.5") == (
        None,
        [],
        ["10.0.0.5"],
    )


@pytest.mark.parametrize(
    "environment",
    [{"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"}, {"CYCLONEDDS_URI": "file:///mine.xml"}],
)
def test_the_users_own_configuration_is_left_alone(environment: dict[str, str]) -> None:
    assert discovery_config(environment, refusal=SourceError) is None


@pytest.mark.parametrize(
    ("area", "reason"),
    [
        ("OFF", "so that no topic can be found or offered; unset it"),
        ("LOCALHOTS", "'LOCALHOTS', did you mean 'LOCALHOST'?"),
    ],
)
def test_a_range_of_discovery_that_cannot_be_used_is_refused(area: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        discovery_config({"ROS_AUTOMATIC_DISCOVERY_RANGE": area}, refusal=SourceError)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "peer",
    ["no.such.host.invalid", "300.1.1.1", "0.0.0.0", "::1", "10.0.0.5:7400", "a" * 80 + ".b"],
)
def test_peers_over_which_the_library_would_end_the_process_are_refused(peer: str) -> None:
    with pytest.raises(SourceError, match="ROS_STATIC_PEERS names .* write names or addresses"):
        discovery_config({"ROS_STATIC_PEERS": f"10.0.0.5;{peer}"}, refusal=SourceError)


def test_without_the_extra_both_ends_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedds.domain", None)
    with pytest.raises(MissingExtraError, match=r"\[dds\]"):
        open_source("ros2:/camera/image")
    with pytest.raises(MissingExtraError, match=r"\[dds\]"):
        open_sink("ros2:/dedos")
