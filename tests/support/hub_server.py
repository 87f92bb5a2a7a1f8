"""A small Hugging Face Hub on the loopback interface, so that the real client runs in tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>.+)")
_REFS = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/refs")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Hub:
    """The server's repositories, faults to play, and what it was asked for."""

    repositories: dict[str, Path]
    """Directory of each repository's files, by `org/name`."""
    branches: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    snapshots: dict[str, Path] = field(default_factory=dict)
    """Directory of the files at a commit, where it is not the repository's own."""
    url: str = ""
    unavailable: int = 0
    """Answer this many requests with status 503 first."""
    tampered: bool = False
    """Serve other bytes than the published sha256 of large files says."""
    weights_sent: int = 0
    """Bytes of safetensors files that went out."""
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


@contextlib.contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            recursive = "recursive=true" in urlsplit(self.path).query.lower()
            hub.requests.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.unavailable > 0:
                hub.unavailable -= 1
                self._send(503, b"{}")
                return
            api, file = _API.fullmatch(path), _FILE.fullmatch(path)
            refs = _REFS.fullmatch(path)
            if refs and refs["repo"] in hub.repositories:
                self._send(200, json.dumps(_refs(hub.branches)).encode())
                return
            found = api or file
            if found is None or found["repo"] not in hub.repositories:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            commit = hub.branches.get(found["revision"], found["revision"])
            if commit not in hub.branches.values():
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            directory = hub.snapshots.get(commit, hub.repositories[found["repo"]])
            if api:
                answer = _info(found["repo"], commit) if api["what"] == "revision" else None
                answer = answer if answer is not None else _tree(directory, recursive)
                self._send(200, json.dumps(answer).encode())
                return
            assert file is not None
            self._send_file(directory / file["file"], commit, body=body)

        def _send_file(self, path: Path, commit: str, *, body: bool) -> None:
            if not path.is_file():
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return
            content = path.read_bytes()
            etag = hashlib.sha256(content).hexdigest() if is_large(path) else git_blob_id(content)
            if hub.tampered and path.suffix == ".safetensors":
                content = content[:-1] + bytes([content[-1] ^ 1])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            status = 200
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                first = int(wanted[1])
                last = min(int(wanted[2] or len(content) - 1), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content, status = content[first : last + 1], 206
            if body and path.suffix == ".safetensors":
                hub.weights_sent += len(content)
            self._send(status, content, headers, body=body)

        def _send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str] | None = None,
            *,
            body: bool = True,
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def is_large(path: Path) -> bool:
    """Whether a file is in large file storage, where the Hub names it by its sha256."""
    return path.suffix in (".safetensors", ".bin")


def git_blob_id(content: bytes) -> str:
    """What the Hub names a small file by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _info(repository: str, commit: str) -> dict[str, object]:
    return {"id": repository, "sha": commit, "siblings": []}


def _refs(branches: dict[str, str]) -> dict[str, object]:
    listed = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
        for name, commit in branches.items()
    ]
    return {"branches": listed, "converts": [], "tags": []}


def _tree(directory: Path, recursive: bool) -> list[dict[str, object]]:
    """The listing of a repository, its weight files in large file storage."""
    entries: list[dict[str, object]] = []
    for path in sorted(directory.rglob("*") if recursive else directory.iterdir()):
        name = path.relative_to(directory).as_posix()
        if path.is_dir():
            entries.append({"type": "directory", "path": name, "oid": "0" * 40})
            continue
        content = path.read_bytes()
        entry: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": git_blob_id(content),
        }
        if is_large(path):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        entries.append(entry)
    return entries
