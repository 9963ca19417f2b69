"""No credential survives redaction, whatever the address looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedos_deploy.runtime.uri import published_name, redact

SECRET = "S3cr3t"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (f"rtsp://admin:{SECRET}@10.0.0.5:554/live", "rtsp://***@10.0.0.5:554/live"),
        (f"rtsp://{SECRET}@cam/live?fps=5", "rtsp://***@cam/live?fps=5"),
        (f"HTTP://u:{SECRET}/with?odd#signs@cam/x", "HTTP://***@cam/x"),
        (f"rtsp://u:p@{SECRET}@cam/x", "rtsp://***@cam/x"),
        (f"http://cam/x?Token={SECRET}&fps=5", "http://cam/x?Token=***&fps=5"),
        (f"http://cam/x?api_key={SECRET}#top", "http://cam/x?api_key=***#top"),
        (f"http://cam/x?a=1;password={SECRET}", "http://cam/x?a=1;password=***"),
        ("rtsp://[fe80::1]:554/live", "rtsp://[fe80::1]:554/live"),
        ("http://cam/x?width=640", "http://cam/x?width=640"),
        ("C:\\video@home.mp4", "C:\\video@home.mp4"),
        ("folder/a@b.mp4", "folder/a@b.mp4"),
    ],
)
def test_examples(uri: str, expected: str) -> None:
    assert redact(uri) == expected
    assert SECRET not in redact(uri)


@given(
    user=st.text(max_size=8),
    password=st.text(max_size=8),
    path=st.sampled_from(["", "/", "/live?fps=5", "/a/b#c"]),
)
def test_no_user_information_survives(user: str, password: str, path: str) -> None:
    assert redact(f"rtsp://{user}:{password}@camera{path}") == f"rtsp://***@camera{path}"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/home/me/secret customer/street/images/train", "street/images/train"),
        ("/home/me/street/images/train/*.jpg", "street/images/train/*.jpg"),
        ("../../me/walk.mp4", "walk.mp4"),
        ("~/walks/frames/", "walks/frames"),
        ("images/val", "here/images/val"),
        (".", "here"),
        ("/", "/"),
        ("/images", "images"),
        ("0", "0"),
        ("scene:street", "scene:street"),
        (f"rtsp://u:{SECRET}@cam/live", "rtsp://***@cam/live"),
        ("gst:videotestsrc ! decodebin", "gst:videotestsrc ! decodebin"),
    ],
)
def test_files_for_others_do_not_tell_where_a_source_lies(
    uri: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert published_name(uri) == expected
