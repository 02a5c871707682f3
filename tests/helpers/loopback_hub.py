"""A stand-in for the Hugging Face hub on this machine: create, upload, look up, download.

Repositories of models and of datasets share one space of names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs


class Hub:
    """Repositories by name, each a map from path to content, and the requests that came."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.refuse = False  # answer 401 to whatever changes something
        self.ranges: list[tuple[str, int, int]] = []  # path, start and stop of parts that were read
        self.whole: list[str] = []  # paths of files that were read whole


def _entries(repository: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return the files and folders as the hub lists them."""
    folders = {str(p) for name in repository for p in PurePosixPath(name).parents if str(p) != "."}
    return [
        *({"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders),
        *(
            {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": hashlib.sha1(data).hexdigest(),
            }
            for name, data in repository.items()
        ),
    ]


def _paths(kind: str, body: bytes) -> list[str]:
    if "json" in kind:
        return list(json.loads(body)["paths"])
    return parse_qs(body.decode())["paths"]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _send(
            self, code: int, body: Any, headers: dict[str, str] | None = None, head: bool = False
        ) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            if not isinstance(body, bytes):
                self.send_header("Content-Type", "application/json")
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if not head:
                self.wfile.write(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def do_POST(self) -> None:
            body, path = self._body(), self.path.split("?")[0]
            if hub.refuse:
                return self._send(401, {"error": "Invalid credentials"})
            if path == "/api/repos/create":
                expected = json.loads(body)
                hub.created.append(expected)
                name = f"{expected.get('organization') or 'someone'}/{expected['name']}"
                hub.repositories.setdefault(name, {})
                address = f"http://{self.headers['Host']}/{name}"
                return self._send(200, {"url": address, "id": name, "name": name})
            if "/preupload/" in path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self._send(200, {"files": files})
            if "/paths-info/" in path:
                repository = hub.repositories.get("/".join(path.split("/")[3:5]), {})
                names = _paths(self.headers.get("Content-Type", ""), body)
                return self._send(200, [e for e in _entries(repository) if e["path"] in names])
            if path == "/api/validate-yaml":
                return self._send(200, {"errors": [], "warnings": []})
            commit = re.match(r"/api/(?:models|spaces)/(.+?)/commit/(.+)", path)
            if commit is None:
                return self._send(404, {"error": path})
            repository = hub.repositories.setdefault(commit[1], {})
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    repository[value["path"]] = base64.b64decode(value["content"])
            address = f"http://{self.headers['Host']}/{commit[1]}/commit/{'0' * 40}"
            answer = {"commitUrl": address, "commitOid": "0" * 40, "hookOutput": ""}
            return self._send(200, answer)

        def _get(self, head: bool) -> None:
            path = self.path.split("?")[0]
            file = re.match(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if file is not None:
                repository = hub.repositories.get(file[1])
                missing = "Repo" if repository is None else "Entry"
                if repository is not None and file[2] not in ("main", "0" * 40):
                    missing = "Revision"
                elif repository is not None and file[3] in repository:
                    data = repository[file[3]]
                    tags = {
                        "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                        "X-Repo-Commit": "0" * 40,
                    }
                    part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
                    if part is None or head:
                        hub.whole += [] if head else [file[3]]
                        return self._send(200, data, tags, head)
                    start, stop = int(part[1]), min(int(part[2]) + 1, len(data))
                    hub.ranges.append((file[3], start, stop))
                    tags["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
                    return self._send(206, data[start:stop], tags)
                code = {"X-Error-Code": f"{missing}NotFound"}
                return self._send(404, {"error": f"{missing} not found"}, code, head)
            facts = re.match(r"/api/(?:models|spaces|datasets)/([^/]+/[^/]+)(/revision/.+)?$", path)
            if facts is not None and facts[1] in hub.repositories:
                names = [{"rfilename": name} for name in hub.repositories[facts[1]]]
                answer = {"id": facts[1], "sha": "0" * 40, "siblings": names, "tags": []}
                return self._send(200, answer | {"private": False}, head=head)
            kinds = "models|spaces|datasets"
            tree = re.match(rf"/api/(?:{kinds})/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path)
            if tree is not None and tree[1] in hub.repositories:
                entries = _entries(hub.repositories[tree[1]])
                under = [e for e in entries if e["path"].startswith(f"{tree[2]}/" * bool(tree[2]))]
                deep = "recursive=true" in self.path.lower()
                inside = [e for e in under if deep or os.path.dirname(e["path"]) == tree[2]]
                return self._send(200, inside, head=head)
            code = {"X-Error-Code": "RepoNotFound"}
            return self._send(404, {"error": "Repository not found"}, code, head)

        def do_GET(self) -> None:
            self._get(head=False)

        def do_HEAD(self) -> None:
            self._get(head=True)

    return Handler


@contextmanager
def loopback_hub() -> Iterator[tuple[str, Hub]]:
    """Yield the address of a running stand-in, and what it holds."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", hub
        finally:
            server.shutdown()
            thread.join()
