"""Local servers for tests: files by HTTP with dropped connections, S3, and a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_PIECE = 16 << 10


@dataclass
class Answering:
    """How a file server behaves, and what it was asked; counts are of the bytes of bodies that went out."""

    files: dict[str, bytes]
    url: str = ""
    drop_after: int | None = None
    """Bytes after which a connection is cut, as long as `drops` are left."""
    drops: int = 10**9
    ranges: bool = True
    validators: bool = True
    lengths: bool = True
    """Whether the size is told; without it, the end of the connection is the end of the file."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Paths that answer with these statuses first, one a request; the last one stays where it is negative."""
    gate: threading.Event | None = None
    """Where set, bodies stop after `gate_after` bytes until the event comes, or are cut after 20 s."""
    gate_after: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [wanted for path, wanted in self.requests if path == name]


@contextmanager
def file_server(files: dict[str, bytes] | Path) -> Iterator[Answering]:
    """Serve files by name; a folder is read once, at the start."""
    if isinstance(files, Path):
        folder = files
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    state = Answering(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = urllib.parse.unquote(self.path.partition("?")[0].lstrip("/"))
            wanted = self.headers.get("Range")
            with state.lock:
                state.requests.append((name, wanted))
                planned = state.statuses.get(name, [])
                status = planned[0] if planned else 200
                if planned and status > 0:
                    planned.pop(0)
            if abs(status) != 200 or name not in state.files:
                self._empty(abs(status) if abs(status) != 200 else 404)
                return
            self._body(name, state.files[name], wanted)

        def _body(self, name: str, content: bytes, wanted: str | None) -> None:
            tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
            start = 0
            if wanted and state.ranges and self.headers.get("If-Range") in (None, tag):
                found = re.fullmatch(r"bytes=(\d+)-", wanted)
                assert found is not None, wanted
                start = int(found[1])
                if start >= len(content):
                    self._empty(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if state.lengths:
                self.send_header("Content-Length", str(len(content) - start))
            else:
                self.send_header("Connection", "close")
            if state.validators:
                self.send_header("ETag", tag)
            self.end_headers()
            self._pieces(name, content[start:])

        def _pieces(self, name: str, body: bytes) -> None:
            cut = state.drop_after is not None and len(body) > state.drop_after
            with state.lock:
                cut = cut and state.drops > 0
                state.drops -= cut
            end = state.drop_after if cut else len(body)
            assert end is not None
            for begin in range(0, end, _PIECE):
                if state.gate is not None and begin >= state.gate_after and not state.gate.wait(20):
                    self.close_connection = True
                    return
                piece = body[begin : min(begin + _PIECE, end)]
                # Counted first: who has the bytes may ask at once how many there were.
                with state.lock:
                    state.sent[name] += len(piece)
                try:
                    self.wfile.write(piece)
                except OSError:
                    with state.lock:
                        state.sent[name] -= len(piece)
                    break
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def _empty(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _served(Handler) as state.url:
        yield state


@dataclass
class Hub:
    """A stand-in for the Hub: repositories with branches of files, and large files by their hash."""

    url: str = ""
    other_host: str = ""
    token: str = "hf_secret"
    repos: dict[str, dict[str, dict[str, tuple[str, bytes]]]] = field(default_factory=dict)
    """Repository (models/ORG/NAME, or ORG/NAME of a data set), branch, path to (how it is kept, content)."""
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    cdn: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    leaked: bool = False
    """Whether the token went to where large files are redirected to."""
    fail_uploads_after: int = 10**9


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Speak the Hub's HTTP interface as far as huggingface_hub needs it to push and pull."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path)
            if "resolve" in path and not self._may_read():
                self._say({"error": "Invalid username or password."}, 401)
            elif found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                place = _repo(found[1], found[2]), found[3], found[4]
                kind, content = hub.repos.get(place[0], {}).get(place[1], {}).get(place[2], ("", b""))
                if not kind:
                    self._say({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                elif kind == "lfs":
                    self._say({}, 302, {"Location": f"{hub.other_host}/cdn/{hashlib.sha256(content).hexdigest()}"})
                else:
                    # As the Hub does: small files by another address of its own, large ones by another host.
                    self._say({}, 307, {"Location": f"/api/resolve-cache/{'/'.join(place)}"})
            elif found := re.fullmatch(r"/api/resolve-cache/((?:models/)?[^/]+/[^/]+)/([^/]+)/(.+)", path):
                self._send(hub.repos[found[1]][found[2]][found[3]][1])
            elif path == "/api/agent-harnesses":
                self._say({})  # asked for statistics only
            elif found := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
                hub.leaked = hub.leaked or "Authorization" in self.headers
                hub.cdn[found[1]] += 1
                self._send(hub.large[found[1]])
            else:
                self._unknown()

        def do_PUT(self) -> None:
            body = self._read()
            digest = self.path.rpartition("/")[2]
            if len(hub.uploads) >= hub.fail_uploads_after:
                self._say({"error": "forbidden"}, 403)
                return
            assert hashlib.sha256(body).hexdigest() == digest
            hub.large[digest] = body
            hub.uploads.append(digest)
            self._say({})

        def do_POST(self) -> None:
            body = self._read()
            path = urllib.parse.unquote(self.path.partition("?")[0])
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._say({"error": "Invalid username or password."}, 401)
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                self._say({"errors": [], "warnings": []})
            elif re.fullmatch(r"(/datasets)?/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                self._batch(json.loads(body))
            elif found := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/([a-z-]+)/(.+)", path):
                repo, action, branch = _repo(found[1], found[2]), found[3], found[4]
                branches = hub.repos.get(repo)
                if branches is None:
                    self._say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                elif action == "branch":
                    branches.setdefault(branch, dict(branches["main"]))
                    self._say({})
                elif branch not in branches:
                    self._say({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
                elif action == "preupload":
                    self._preupload(json.loads(body))
                elif action == "paths-info":
                    self._paths_info(branches[branch], urllib.parse.parse_qs(body.decode())["paths"])
                elif action == "commit":
                    self._commit(branches[branch], [json.loads(line) for line in body.splitlines() if line])
                else:
                    self._unknown()
            else:
                self._unknown()

        def _may_read(self) -> bool:
            """All repositories are private."""
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            kind = "datasets" if wanted.get("type") == "dataset" else "models"
            repo = _repo(kind, name)
            if repo in hub.repos:
                self._say({"error": "You already created it", "url": f"{hub.url}/{kind}/{name}"}, 409)
                return
            hub.repos[repo] = {"main": {}}
            hub.private[repo] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            prefix = "datasets/" if kind == "datasets" else ""
            self._say({"url": f"{hub.url}/{prefix}{name}", "id": "1", "name": name})

        def _preupload(self, wanted: dict[str, Any]) -> None:
            modes = {True: "lfs", False: "regular"}
            files = [
                {
                    "path": file["path"],
                    "uploadMode": modes[file["path"].endswith((".h5", ".safetensors", ".onnx"))],
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in wanted["files"]
            ]
            self._say({"files": files})

        def _batch(self, wanted: dict[str, Any]) -> None:
            objects = []
            for item in wanted["objects"]:
                answer = {"oid": item["oid"], "size": item["size"]}
                if item["oid"] not in hub.large:
                    answer["actions"] = {"upload": {"href": f"{hub.url}/lfs/{item['oid']}", "header": {}}}
                objects.append(answer)
            self._say({"transfer": "basic", "objects": objects})

        def _paths_info(self, files: dict[str, tuple[str, bytes]], paths: list[str]) -> None:
            infos = []
            for path in paths:
                if path not in files:
                    continue
                kind, content = files[path]
                digest = hashlib.sha256(content).hexdigest()
                info: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": digest[:40]}
                if kind == "lfs":
                    info["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
                infos.append(info)
            self._say(infos)

        def _commit(self, files: dict[str, tuple[str, bytes]], lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.append(value["summary"])
                elif line["key"] == "file":
                    files[value["path"]] = ("regular", base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    files[value["path"]] = ("lfs", hub.large[value["oid"]])
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.url}/datasets/x/y/commit/0"}
            self._say(answer)

        def _unknown(self) -> None:
            hub.unknown.append(f"{self.command} {self.path}")
            self._say({"error": "not known to the stand-in"}, 501)

        def _read(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                pieces = []
                while size := int(self.rfile.readline().strip(), 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _say(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self._send(json.dumps(value).encode(), status, headers)

        def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _served(Handler) as hub.url:
        hub.other_host = hub.url.replace("127.0.0.1", "localhost")
        yield hub


def _repo(kind: str | None, name: str) -> str:
    return name if kind == "datasets" else f"models/{name}"


Run = Callable[..., "Done"]
"""Runs a command, with a `token` for the Hub."""


@dataclass
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


_DRIVER = """
import json, os, sys
from click.testing import CliRunner
from {program}.cli import main
for line in sys.stdin:
    environment, arguments = json.loads(line)
    os.environ.update(environment)
    done = CliRunner().invoke(main, arguments)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


@contextmanager
def on_hub(hub: Hub, program: str, home: Path) -> Iterator[Run]:
    """Runs commands of harfeat or harvib in a process that took the stand-in for the Hub from its start.

    In a process of its own, since huggingface_hub reads HF_ENDPOINT when it is imported.
    """
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",  # the stand-in speaks the Hub's older way for large files
        "HARFEAT_CACHE": str(home / "user-cache"),
        "no_proxy": "*",
    }
    with subprocess.Popen(
        [sys.executable, "-c", _DRIVER.format(program=program)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None

        def run(*arguments: object, token: str = hub.token) -> Done:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([{"HF_TOKEN": token}, [*map(str, arguments)]]), file=process.stdin, flush=True)
            return Done(*json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a local S3 server with the bucket `team`; s3fs finds the server by AWS's own variable."""
    import boto3  # noqa: PLC0415 - takes seconds to import
    import s3fs  # noqa: PLC0415
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    # What servers before it in this process held would still be there.
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="team")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
