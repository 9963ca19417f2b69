"""A hub of data sets as huggingface_hub speaks to one, on this machine: lists, reads and takes commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

API = re.compile(
    r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>\w[\w-]*)/main(?:/(?P<path>.*))?)?"
)
FILE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/main/(?P<path>.+)")
COMMIT = "c" * 40


class SmallHub(ThreadingHTTPServer):
    """Knows the data sets in `files`: content by name within the repository, by repository."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, dict[str, bytes]] = {}
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def small_hub() -> Iterator[SmallHub]:
    with SmallHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def _listing(files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, object]]:
    """Return files and folders below a folder as the hub's tree names them."""
    prefix, found = f"{folder}/" if folder else "", {}
    for name, content in sorted(files.items()):
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            path = prefix + "/".join(parts[:depth])
            found[path] = {"type": "directory", "oid": _oid(path.encode()), "size": 0, "path": path}
        if recursive or len(parts) == 1:
            found[name] = {
                "type": "file",
                "oid": _oid(content),
                "size": len(content),
                "path": name,
            }
    return list(found.values())


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SmallHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        path = unquote(place.path)
        if match := FILE.fullmatch(path):
            files = self.server.files.get(match["repo"], {})
            self._send_file(files.get(match["path"]))
            return
        match = API.fullmatch(path)
        files = self.server.files.get(match["repo"]) if match else None
        if match is None or files is None:
            # As of repositories that are private, too.
            self._send({"error": "Repository not found"}, 404, code="RepoNotFound")
        elif match["verb"] == "tree":
            recursive = "recursive=true" in place.query.lower()
            found = _listing(files, match["path"] or "", recursive=recursive)
            if match["path"] and not found:
                self._send({"error": "Entry not found"}, 404, code="EntryNotFound")
            else:
                self._send(found)
        else:
            self._send({"id": match["repo"], "sha": COMMIT, "siblings": []})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = API.fullmatch(unquote(urlsplit(self.path).path))
        if match is None or match["repo"] not in self.server.files:
            self._send({"error": "Repository not found"}, 404, code="RepoNotFound")
        elif match["verb"] == "preupload":
            names = [one["path"] for one in json.loads(content)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._send({"files": modes})
        else:
            self._commit(match["repo"], content)

    def _commit(self, repository: str, content: bytes) -> None:
        with self.server.lock:
            files = dict(self.server.files[repository])
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.server.files[repository] = files
        url = f"{self.server.address}/datasets/{repository}/commit/{COMMIT}"
        self._send({"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": ""})

    def _send_file(self, content: bytes | None) -> None:
        if content is None:
            self._send({"error": "Entry not found"}, 404, code="EntryNotFound")
            return
        match, total = (
            re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")),
            len(content),
        )
        if match is None:
            self._send_bytes(content, 200, {"ETag": _oid(content)})
            return
        start = int(match[1])
        part = content[start : int(match[2]) + 1 if match[2] else None]
        said = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{total}"}
        self._send_bytes(part, 206, said)

    def _send(self, found: object, status: int = 200, *, code: str = "") -> None:
        headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
        self._send_bytes(json.dumps(found).encode(), status, headers)

    def _send_bytes(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
