"""A hub on 127.0.0.1, with the routes that downloads use."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deadlines import SECONDS


def commit_of(revision: str) -> str:
    """The commit the server gives to a revision: 40 hex digits, as on the real hub."""
    return revision.encode().hex().ljust(40, "0")


@dataclass
class Hub:
    """What the server offers, and what was asked of it.

    `breaks` gives for a file's name after how many bytes of each coming download the connection
    breaks; once the list is used up, downloads succeed. Nothing of the models in `gated` is sent.
    """

    endpoint: str
    close: Callable[[], None]
    models: dict[str, dict[str, Mapping[str, bytes]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)

    def add(self, model: str, files: Mapping[str, bytes], revision: str = "main") -> None:
        """Offer files under a revision and under its commit."""
        revisions = self.models.setdefault(model, {})
        revisions[revision] = revisions[commit_of(revision)] = files


class HubHandler(BaseHTTPRequestHandler):
    """The routes of the hub that a snapshot download uses."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.requests.append(format % args)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._file(path.removeprefix("/"))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _api(self, path: str) -> None:
        route = "/revision/" if "/revision/" in path else "/tree/"
        model, _, revision = path.partition(route)
        files = self._files(model, revision)
        if files is None:
            return
        if route == "/revision/":
            # Older releases of the library take the files from here, newer ones from the tree.
            siblings = [{"rfilename": name} for name in files]
            answer: Any = {"id": model, "sha": commit_of(revision), "siblings": siblings}
        else:
            answer = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in files.items()
            ]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str) -> None:
        model, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self._files(model, revision)
        if files is None:
            return
        commit = revision if len(revision) == 40 else commit_of(revision)
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = files[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        asked = self.headers.get("Range")
        if asked is None:
            start, status = 0, 200
        else:
            self.hub.ranges.append(asked)
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        breaks = self.hub.breaks.get(name)
        break_after = breaks.pop(0) if breaks and self.command == "GET" else None
        self._send(status, content[start:], headers, break_after)

    def _files(self, model: str, revision: str) -> Mapping[str, bytes] | None:
        """The files of a revision; answers 404 and returns None if there is no such one."""
        if model in self.hub.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            return None
        revisions = self.hub.models.get(model)
        if revisions is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in revisions:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return revisions[revision]

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str], break_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:break_after])
        if break_after is not None:
            self.close_connection = True


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub without models until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    run = partial(server.serve_forever, poll_interval=0.01)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join(SECONDS)
        assert not thread.is_alive()

    HubHandler.hub = Hub(f"http://127.0.0.1:{server.server_port}", close)
    yield HubHandler.hub
    close()


def hub_environment(hub: Hub, cache: Path) -> dict[str, str]:
    """Return the variables with which a process uses this hub, and its own cache folder.

    Where coverage is measured, it measures in that process, too.
    """
    measuring = {name: own for name, own in os.environ.items() if name.startswith("COVERAGE_")}
    return measuring | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
