"""Checkpoints from the Hub, with a local server in its place."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from comparison import assert_same, to_numpy
from hub_stand_in import in_place_of_the_hub

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.folder import Checkpoint
from glam_env.checkpoint.hub import fetch_checkpoint
from glam_env.errors import GlamError

constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO, REVISIONS = "someone/GLAMDream-Pong", ("main", "v1", COMMIT)


class StandIn(ThreadingHTTPServer):
    """Serves one model repository as the Hub does: its list of files, and each file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.paths: list[str] = []  # of files that were sent
        self.torn = False  # stops in the middle of each file

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        files = sorted(self.server.folder.iterdir())
        as_json = {"Content-Type": "application/json"}
        if self.path.startswith(f"/api/models/{REPO}/tree/") and parts[5] in REVISIONS:
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT}
                for file in files
            ]
            self._send(json.dumps(tree).encode(), with_body, as_json)
        elif self.path.startswith(f"/api/models/{REPO}/revision/") and parts[5] in REVISIONS:
            names = [{"rfilename": file.name} for file in files]
            about = {"id": REPO, "sha": COMMIT, "siblings": names, "private": False}
            self._send(json.dumps(about).encode(), with_body, as_json)
        elif self.path.startswith(f"/{REPO}/resolve/") and parts[3] in REVISIONS:
            file = self.server.folder / parts[4]
            if with_body:
                self.server.paths.append(file.name)
            tag = hashlib.sha256(file.read_bytes()).hexdigest()
            self._send(file.read_bytes(), with_body, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        else:
            error = "RevisionNotFound" if REPO in self.path else "RepoNotFound"
            self.send_response(404)
            self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            torn = self.server.torn and "ETag" in headers
            self.wfile.write(body[: len(body) // 2] if torn else body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandIn]:
    (tiny_checkpoint / "notes.bin").write_bytes(b"no part of a checkpoint")
    server = StandIn(tiny_checkpoint)
    with in_place_of_the_hub(server, tmp_path / "cache", monkeypatch), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield server


def test_a_dream_opens_from_the_hub_and_downloads_once(hub, tiny_checkpoint) -> None:
    dreamt = []
    for checkpoint in (f"hf://{REPO}", f"hf://{REPO}@v1", str(tiny_checkpoint)):
        envs = gym.make_vec("GLAMDream-Pong-v0", num_envs=2, device="cpu", checkpoint=checkpoint)
        envs.reset(seed=0)
        dreamt.append(envs.step(np.zeros(2, int))[:4])
        envs.close()
    assert_same(dreamt[0], dreamt[2])
    assert_same(dreamt[1], dreamt[2])
    assert sorted(hub.paths) == [
        "CARD.md",
        "agent.safetensors",
        "config.json",
        "contexts.safetensors",
        "world_model.safetensors",
    ]


def test_a_checkpoint_opens_from_the_hub(hub, tiny_checkpoint) -> None:
    checkpoint, local = Checkpoint.open(f"hf://{REPO}@v1"), Checkpoint.open(tiny_checkpoint)
    assert checkpoint.config == local.config
    assert_same(to_numpy(checkpoint.agent_state()), to_numpy(local.agent_state()))


def test_what_was_downloaded_is_found_without_the_hub(hub) -> None:
    folder = fetch_checkpoint(f"hf://{REPO}")
    hub.shutdown()
    hub.server_close()
    assert fetch_checkpoint(f"hf://{REPO}") == folder
    with pytest.raises(GlamError, match="hf://someone/else cannot be fetched") as caught:
        fetch_checkpoint("hf://someone/else")
    assert "\n" not in str(caught.value)


def test_a_game_without_a_checkpoint_here_is_that_of_the_owner_in_glam_hub(
    hub, tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    """What is here comes first; what was downloaded needs no network."""
    monkeypatch.setattr("glam_env.checkpoint.folder.shipped_checkpoints", dict)
    with pytest.raises(GlamError, match=r"glam train Pong.*GLAM_CHECKPOINTS.*GLAM_HUB"):
        gym.make("GLAMDream-Pong-v0")
    monkeypatch.setenv("GLAM_HUB", "someone")
    gym.make("GLAMDream-Pong-v0").close()
    assert Checkpoint.open("Pong").path.is_relative_to(tmp_path / "cache")
    assert hub.paths.count("config.json") == 1
    with pytest.raises(GlamError, match="hf://someone/GLAMDream-Boxing cannot be fetched"):
        gym.make("GLAMDream-Boxing-v0")
    shipped = {"Pong": tiny_checkpoint}
    monkeypatch.setattr("glam_env.checkpoint.folder.shipped_checkpoints", shipped.copy)
    assert Checkpoint.open("Pong").path == tiny_checkpoint
    monkeypatch.setattr("glam_env.checkpoint.folder.shipped_checkpoints", dict)
    monkeypatch.setenv("GLAM_HUB", "some/one")
    with pytest.raises(GlamError, match="GLAM_HUB must name an owner"):
        gym.make("GLAMDream-Pong-v0")


def test_a_download_that_breaks_off_gets_one_line_and_goes_on_later(hub, monkeypatch) -> None:
    hub.torn = True
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(GlamError, match="cannot be fetched") as caught:
        fetch_checkpoint(f"hf://{REPO}")
    assert "\n" not in str(caught.value)
    hub.torn = False
    gym.make("GLAMDream-Pong-v0", checkpoint=f"hf://{REPO}").close()


def test_a_file_with_another_hash_is_refused(hub, tiny_checkpoint) -> None:
    path = tiny_checkpoint / "world_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(GlamError, match="is not the file whose SHA-256"):
        gym.make("GLAMDream-Pong-v0", checkpoint=f"hf://{REPO}")


@pytest.mark.parametrize("address", ["hf://no/such-repository", f"hf://{REPO}@no-such-branch"])
def test_what_is_not_there_gets_one_line(hub, address) -> None:
    with pytest.raises(GlamError, match="cannot be fetched") as caught:
        gym.make("GLAMDream-Pong-v0", checkpoint=address)
    assert str(caught.value).startswith(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["hf://", "hf://alone", "hf://a/b/c", "hf://a/b@", "hf://a b/c", "hf://../secret"]
)
def test_a_malformed_address_gets_an_example(address) -> None:
    with pytest.raises(GlamError, match=r"write hf://owner/name\[@revision\]"):
        gym.make("GLAMDream-Pong-v0", checkpoint=address)


def test_without_the_library_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(GlamError, match=r'pip install "glam-env\[hub\]"'):
        gym.make("GLAMDream-Pong-v0", checkpoint=f"hf://{REPO}")
