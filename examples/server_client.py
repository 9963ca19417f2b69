"""A client of `dedos-run --serve`: give a camera other words, then ask what it sees.

dedos-run --source gate=0 --classes "road,car" --serve
python examples/server_client.py http://127.0.0.1:8080 gate "road,car|truck,person"
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any
from urllib.request import Request, urlopen


def ask(url: str, *, method: str = "GET", body: object = None) -> Any:
    """Return the JSON answer; the token of a server that wants one comes from DEDOS_TOKEN."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("DEDOS_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    content = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, content, headers, method=method), timeout=30) as answer:
        return json.load(answer)


def main(server: str, camera: str, words: str) -> None:
    changed = ask(f"{server}/api/cameras/{camera}/classes", method="PUT", body={"classes": words})
    print(f"words of version {changed['version']} from the next frame on")
    time.sleep(2)
    (found,) = (one for one in ask(f"{server}/api/state")["cameras"] if one["name"] == camera)
    for word, part in found["history"][-1]["coverage"].items():
        print(f"{part:6.1%} {word}")


if __name__ == "__main__":
    main(*sys.argv[1:])
