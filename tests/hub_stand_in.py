"""A local server in place of the Hugging Face Hub: repositories that are pushed to and pulled."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_of_the_tests"

Files = dict[str, bytes]


@contextmanager
def in_place_of_the_hub(
    server: HubStandIn, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Serve, and let huggingface_hub talk to the server and keep its downloads in ``cache``."""
    from huggingface_hub import constants

    url = server.url
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    # The library reads HF_ENDPOINT and HF_HOME only when it is imported.
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


class HubStandIn(ThreadingHTTPServer):
    """Model repositories in memory, with branches, commits and large files.

    Attributes:
        commits: Files by repository and commit.
        branches: The commit by repository and branch.
        private: Repositories that were made private.
        breaks: Requests whose path has these words get no answer: the connection is closed.
        torn: Files break off in the middle.
        sent: Names of the files that were sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.breaks: tuple[str, ...] = ()
        self.torn = False
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, branch: str, files: Files) -> str:
        """Add a commit to a branch; return its name."""
        text = repr((sorted(files.items()), len(self.commits[repo])))
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[repo][name] = files
        self.branches[repo][branch] = name
        return name

    def publish(self, repo: str, folder: Path, *branches: str) -> str:
        """Add the files of a folder to a repository, new or not, as one commit; return its name."""
        self.commits.setdefault(repo, {})
        self.branches.setdefault(repo, {})
        name = self.commit(
            repo, "main", {file.name: file.read_bytes() for file in folder.iterdir()}
        )
        self.branches[repo] |= dict.fromkeys(branches, name)
        return name

    def files(self, repo: str, revision: str) -> Files | None:
        """Return the files of a branch or a commit; None if there is none."""
        name = self.branches.get(repo, {}).get(revision, revision)
        return self.commits.get(repo, {}).get(name)


class _Handler(BaseHTTPRequestHandler):
    server: HubStandIn

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def do_PUT(self) -> None:
        self._answer(self._write)

    def do_DELETE(self) -> None:
        self._answer(self._write)

    def _answer(self, answer: Callable[[list[str], bytes], None]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if any(word in self.path for word in self.server.breaks):
            self.close_connection = True
            return
        answer(self.path.split("?")[0].strip("/").split("/"), body)

    def _read(self, parts: list[str], _body: bytes) -> None:
        hub = self.server
        if parts[:2] == ["api", "models"]:
            repo, kind, revision = "/".join(parts[2:4]), *(parts[4:6] or ["revision", "main"])
        else:
            repo, kind, revision = "/".join(parts[:2]), parts[2], parts[3]
        files = hub.files(repo, revision)
        if files is None:
            known = repo in hub.commits
            return self._send(404, error="RevisionNotFound" if known else "RepoNotFound")
        sha = hub.branches[repo].get(revision, revision)
        if kind == "tree":
            return self._send(
                200,
                [
                    {"type": "file", "path": name, "size": len(data), "oid": sha}
                    for name, data in files.items()
                ],
            )
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            about = {"id": repo, "sha": sha, "siblings": siblings, "private": repo in hub.private}
            return self._send(200, about)
        data = files[parts[4]]
        tag = hashlib.sha256(data).hexdigest()
        if self.command == "GET":
            hub.sent.append(parts[4])
        return self._send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": sha}, torn=hub.torn)

    def _write(self, parts: list[str], body: bytes) -> None:
        hub = self.server
        if parts[0] == "large":
            hub.large[parts[1]] = body
            return self._send(200, {})
        if parts == ["api", "validate-yaml"]:
            return self._send(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        if parts[:2] == ["api", "repos"]:
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if parts[2] == "delete":
                del hub.commits[repo], hub.branches[repo]
                return self._send(200, {})
            if repo in hub.commits:
                return self._send(409, {"error": "You already created this model repo"})
            hub.commits[repo], hub.branches[repo] = {}, {}
            hub.commit(repo, "main", {".gitattributes": b""})
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repo)
            return self._send(200, {"url": f"{hub.url}/{repo}"})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._send(200, {"transfer": "basic", "objects": objects})
        repo, kind, revision = "/".join(parts[2:4]), parts[4], parts[5]
        if kind == "branch":
            if self.command == "DELETE":
                del hub.branches[repo][revision]
            else:
                hub.branches[repo][revision] = hub.branches[repo]["main"]
            return self._send(200, {})
        if kind == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if "safetensors" in file["path"] else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        assert kind == "commit", self.path
        files = dict(hub.files(repo, revision) or {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
        name = hub.commit(repo, revision, files)
        url = f"{hub.url}/{repo}/commit/{name}"
        return self._send(200, {"commitUrl": url, "commitOid": name, "success": True})

    def _send(
        self,
        status: int,
        body: Any = None,
        headers: dict[str, str] | None = None,
        error: str = "",
        torn: bool = False,
    ) -> None:
        data = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        self.send_response(status)
        all_headers = {"Content-Length": str(len(data)), **(headers or {})}
        if not isinstance(body, bytes):
            all_headers["Content-Type"] = "application/json"
        if error:
            all_headers["X-Error-Code"] = error
        for name, value in all_headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if torn else data)

    def log_message(self, *args: Any) -> None:
        pass
