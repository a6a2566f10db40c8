"""`glam push`: to a local stand-in of the Hub and back, to the bit; and all that can fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from command_line import mistake, mistake_after_progress
from comparison import assert_same
from hub_stand_in import TOKEN, HubStandIn, in_place_of_the_hub

import glam_env  # noqa: F401  (registers the ids)
from glam_env.checkpoint.folder import Checkpoint
from glam_env.cli.main import main

constants = pytest.importorskip("huggingface_hub.constants")

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "Pong"
REPO = "me/GLAMDream-Pong"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    server = HubStandIn()
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with in_place_of_the_hub(server, tmp_path / "cache", monkeypatch):
        yield server


def push(folder: Path, *words: str, name: str = REPO) -> list[str]:
    return ["push", str(folder), name, "--license", "mit", *words]


def dreams(checkpoint: str) -> list:
    envs = gym.make_vec("GLAMDream-Pong-v0", num_envs=3, device="cpu", checkpoint=checkpoint)
    seen = [envs.reset(seed=0)[0], *(envs.step(np.full(3, a))[:4] for a in (0, 2, 3, 3))]
    envs.close()
    return seen


def test_what_is_pushed_comes_back_to_the_bit(hub, tiny_checkpoint, capsys) -> None:
    (tiny_checkpoint / "notes.bin").write_bytes(b"no part of a checkpoint")
    assert main(push(tiny_checkpoint)) == 0
    address = capsys.readouterr().out.split()[-1]
    assert re.fullmatch(rf"hf://{REPO}@[0-9a-f]{{40}}", address)
    assert len(hub.commits[REPO]) == 2, "the first one of the Hub, and one of ours"
    files = hub.files(REPO, "main")
    assert files is not None
    parts = ["CARD.md", "agent", "config.json", "contexts", "world_model"]
    names = [name if "." in name else f"{name}.safetensors" for name in parts]
    assert sorted(files) == sorted([".gitattributes", "README.md", *names])
    for name in names:
        assert files[name] == (tiny_checkpoint / name).read_bytes()
    local = dreams(str(tiny_checkpoint))
    assert_same(dreams(f"hf://{REPO}"), local)
    assert main(["info", f"hf://{REPO}"]) == 0
    # A revision is pinned: another push does not change it.
    before = files["config.json"]
    config = (tiny_checkpoint / "config.json").read_text().replace('"a test"', '"another"')
    (tiny_checkpoint / "config.json").write_text(config)
    assert main(push(tiny_checkpoint, "--replace")) == 0
    pinned = Checkpoint.open(address)
    assert (pinned.path / "config.json").read_bytes() == before
    assert Checkpoint.open(f"hf://{REPO}").config.provenance.hardware == "another"
    assert_same(dreams(address), local)


def test_a_branch_and_a_private_repository(hub, tiny_checkpoint, capsys) -> None:
    assert main(push(tiny_checkpoint, "--private", "--revision", "v2")) == 0
    assert hub.private == {REPO}
    assert sorted(hub.branches[REPO]) == ["main", "v2"]
    assert sorted(hub.files(REPO, "main")) == [".gitattributes"]
    assert_same(dreams(f"hf://{REPO}@v2"), dreams(str(tiny_checkpoint)))
    capsys.readouterr()  # the progress of the upload
    assert "branch 'v2' already" in mistake(capsys, *push(tiny_checkpoint, "--revision", "v2"))
    assert main(push(tiny_checkpoint, "--revision", "v3")) == 0


def test_the_card_has_the_results_in_the_hubs_metadata(capsys) -> None:
    """The shipped Pong's; nothing is pushed."""
    from huggingface_hub import ModelCard

    assert main(push(SHIPPED, "--dry-run")) == 0
    card = ModelCard(capsys.readouterr().out)
    data, results = card.data, Checkpoint.open(SHIPPED).config.results
    assert (data.library_name, data.pipeline_tag) == ("glam-env", "reinforcement-learning")
    assert data.license == "mit"
    assert {"world-model", "Pong"} <= set(data.tags)
    found = {each.dataset_config: each for each in data.eval_results if "score" in each.metric_name}
    for score in results["scores"]:
        each = found[score["protocol"]]
        assert (each.metric_value, each.metric_type) == (score["mean"], "mean_reward")
        assert score["protocol"] in each.dataset_name
    checks = [each for each in data.eval_results if each.metric_type == "fidelity"]
    assert len(checks) == len([each for each in results["fidelity"]["checks"] if each["figure"]])
    assert f'checkpoint="hf://{REPO}"' in card.text
    assert (SHIPPED / "CARD.md").read_text() in card.text


def test_list_shows_what_was_downloaded_and_what_is_given(hub, tiny_checkpoint, capsys) -> None:
    assert main(push(tiny_checkpoint)) == 0
    address = capsys.readouterr().out.split()[-1]
    assert main(["list"]) == 0
    assert address not in capsys.readouterr().out
    Checkpoint.open(address)
    assert main(["list", "--json", str(tiny_checkpoint), str(tiny_checkpoint.parent / "none")]) == 0
    output = capsys.readouterr()
    others = json.loads(output.out)["others"]
    assert [entry["game"] for entry in others.values()] == ["Pong", "Pong", ""]
    assert list(others)[:2] == [address, str(tiny_checkpoint)]
    assert "none is not a checkpoint" in output.err
    assert main(["list"]) == 0
    assert address in capsys.readouterr().out


def nothing_there(hub: HubStandIn) -> bool:
    return not hub.commits and not hub.branches


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["push", "Pong", "alone", "--license", "mit"], "write OWNER/NAME"),
        (["push", "Pong", REPO], "no licence: choose one for the weights by --license"),
        (["push", "Pong", REPO, "--license", "Do What"], "is no identifier of a licence"),
        (["push", "Boxing", REPO, "--license", "mit"], "there is no checkpoint of Boxing"),
    ],
)
def test_what_is_wrong_here_gets_one_line(
    words, says, hub, capsys, saved_checkpoint, monkeypatch, tmp_path
):
    monkeypatch.setattr("glam_env.checkpoint.folder._PACKAGE", tmp_path / "elsewhere" / "package")
    monkeypatch.setenv("GLAM_CHECKPOINTS", str(saved_checkpoint.parent))
    assert says in mistake(capsys, *words)
    assert nothing_there(hub)


def test_without_a_token_or_with_a_wrong_one(hub, saved_checkpoint, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "run `hf auth login`, or set HF_TOKEN" in mistake(capsys, *push(saved_checkpoint))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    says = mistake(capsys, *push(saved_checkpoint))
    assert "401" in says
    assert "check the token" in says
    assert nothing_there(hub)


def test_a_taken_name(hub, saved_checkpoint, capsys) -> None:
    assert main(push(saved_checkpoint)) == 0
    before = dict(hub.commits[REPO])
    capsys.readouterr()  # the progress of the upload
    assert f"{REPO} exists already: choose another" in mistake(capsys, *push(saved_checkpoint))
    assert hub.commits[REPO] == before


@pytest.mark.parametrize("at", ["/preupload/", "/objects/batch", "/large/", "/commit/"])
def test_a_network_that_breaks_leaves_nothing(hub, saved_checkpoint, capsys, at) -> None:
    hub.breaks = (at,)
    says = mistake_after_progress(capsys, *push(saved_checkpoint))
    assert "cannot be pushed" in says
    assert says.endswith("Nothing was pushed\n")
    assert nothing_there(hub), "the repository that was made is removed"
    hub.breaks = ()
    assert main(push(saved_checkpoint)) == 0, "and later it succeeds"
    before = {name: dict(files) for name, files in hub.commits[REPO].items()}
    hub.breaks = (at,)
    says = mistake_after_progress(capsys, *push(saved_checkpoint, "--revision", "v2"))
    assert says.endswith("Nothing was pushed\n")
    assert hub.commits[REPO] == before
    assert list(hub.branches[REPO]) == ["main"]


def test_what_could_not_be_removed_is_said(hub, saved_checkpoint, capsys) -> None:
    hub.breaks = ("/commit/", "/repos/delete")
    says = mistake_after_progress(capsys, *push(saved_checkpoint))
    assert "An empty repository or branch is left there" in says


def test_without_a_network_nothing_is_asked(hub, saved_checkpoint, capsys) -> None:
    hub.shutdown()
    hub.server_close()
    says = mistake_after_progress(capsys, *push(saved_checkpoint))
    assert "check the token, the name and the connection" in says


def test_a_damaged_file_is_not_pushed(hub, tiny_checkpoint, capsys) -> None:
    path = tiny_checkpoint / "agent.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "is not the file whose SHA-256" in mistake(capsys, *push(tiny_checkpoint))
    assert nothing_there(hub)
