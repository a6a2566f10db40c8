"""Checkpoints from the Hub, with a local server in its place."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from command_line import mistake_after_progress
from comparison import assert_same, to_numpy
from hub_stand_in import TOKEN, HubStandIn, in_place_of_the_hub

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.folder import Checkpoint
from glam_env.checkpoint.hub import fetch_checkpoint
from glam_env.cli.main import main
from glam_env.errors import GlamError

constants = pytest.importorskip("huggingface_hub.constants")

REPO = "someone/GLAMDream-Pong"
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "Pong"


@pytest.fixture
def hub(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubStandIn]:
    (tiny_checkpoint / "notes.bin").write_bytes(b"no part of a checkpoint")
    server = HubStandIn()
    server.publish(REPO, tiny_checkpoint, "v1")
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
    assert sorted(hub.sent) == [
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
    assert hub.sent.count("config.json") == 1
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
    hub.publish(REPO, tiny_checkpoint)
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


# --- commands ------------------------------------------------------------------------------------

ADDRESS = f"hf://{REPO}@v1"
ON_TENSORS = {
    "play": ["play", ADDRESS],
    "play-agent": ["play", "Pong", "--agent", f"storm:{ADDRESS}"],
    "eval": ["eval", ADDRESS, "--episodes", "1"],
    "demo": ["demo", ADDRESS],
    "fidelity": ["fidelity", ADDRESS],
    "ranking": ["fidelity", "Pong", "--ranking-agents", f"storm:{ADDRESS}"],
    "card": ["card", ADDRESS, "--to", "{new}"],
    "web": ["web", ADDRESS, "--to", "{new}"],
    "onnx": ["export", ADDRESS, "--onnx", "{new}"],
    "sb3": ["sb3", ADDRESS, "--run", "{new}"],
    "warm-start": ["train", "Pong", "--preset", "debug", "--warm-start", ADDRESS, "--run", "{new}"],
    "push": ["push", ADDRESS, "me/another", "--license", "mit"],
}
"""Commands that read the tensors of a checkpoint with an address."""


@pytest.mark.emulator
@pytest.mark.parametrize("words", ON_TENSORS.values(), ids=ON_TENSORS)
def test_a_command_opens_an_address(words, hub, tmp_path, capsys, monkeypatch) -> None:
    """It is stopped where it reads the first tensors of what was downloaded."""
    read, cache = Checkpoint._bytes, tmp_path / "cache"

    def stop(self: Checkpoint, name: str) -> bytes:
        if self.path.is_relative_to(cache):
            raise GlamError(f"read {name} of {self.config.provenance.hardware}")
        return read(self, name)

    monkeypatch.setattr(Checkpoint, "_bytes", stop)
    monkeypatch.setattr("glam_env.web.site.page_files", dict)  # npm's part
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    says = mistake_after_progress(capsys, *(word.format(new=tmp_path / "new") for word in words))
    assert re.search(r"read \w+\.safetensors of a test", says), says
    assert set(hub.sent) >= {"config.json", "world_model.safetensors"}


def test_info_and_list_show_an_address(hub, capsys) -> None:
    assert main(["info", ADDRESS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["game"] == "Pong"
    assert main(["list", "--json", ADDRESS]) == 0
    output = capsys.readouterr()
    assert "glam: " not in output.err
    assert json.loads(output.out)["others"][ADDRESS]["game"] == "Pong"


def test_the_card_of_a_download_is_written_elsewhere(hub, tmp_path, capsys) -> None:
    """What is in the cache stays what its commit says."""
    hub.publish(REPO, SHIPPED, "v1")
    says = mistake_after_progress(capsys, "card", ADDRESS, "--from-results")
    assert "is a download, which stays as it is: give --to FOLDER" in says
    new = tmp_path / "new"
    assert main(["card", ADDRESS, "--from-results", "--to", str(new)]) == 0
    one, other = Checkpoint.open(new), Checkpoint.open(ADDRESS)
    one.verify()
    other.verify()
    assert one.config == other.config == Checkpoint.open(SHIPPED).config
    assert (new / "CARD.md").read_text() == (SHIPPED / "CARD.md").read_text()
