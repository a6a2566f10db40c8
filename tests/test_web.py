"""The page of `glam web`, in headless Chromium without a network."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glam_env.cli.main import main
from glam_env.cli.trained import load_trained
from glam_env.envs.dream.pool import draw_frames
from glam_env.fast.plain import ModelStepper
from glam_env.model.reward_values import RewardValues
from glam_env.model.structures import DreamState, tree_map
from glam_env.onnx.export import read_states
from glam_env.web.serve import make_server

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("ale_py")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
]

STARTS, STEPS = 10, 200
MB = 1e6

DREAM_ALL = """
async ({ starts, steps }) => {
  const { Model } = await import(new URL("model.js", location.href));
  const { draws } = await import(new URL("draws.js", location.href));
  const model = (globalThis.testModel ??= await Model.load("games/Pong/"));
  let states = model.starts.slice(0, starts);
  const text = (bytes) => {
    let out = "";
    for (let i = 0; i < bytes.length; i += 32768) {
      out += String.fromCharCode(...bytes.subarray(i, i + 32768));
    }
    return btoa(out);
  };
  const pack = (arrays, Kind) => {
    const flat = new Kind(arrays.length * arrays[0].length);
    arrays.forEach((each, row) => flat.set(each, row * each.length));
    return text(new Uint8Array(flat.buffer));
  };
  const out = [];
  for (let t = 0; t < steps; t++) {
    const numbers = states.map((_, row) => draws(row, 0, t, 34));
    const actions = numbers.map((each) => Math.floor(each[33] * 6));
    const made = await model.step(states, actions, numbers);
    states = made.map(({ state }) => state);
    out.push({
      actions,
      draws: pack(numbers, Float32Array),
      codes: pack(states.map(({ code }) => code), Uint8Array),
      frames: pack(await model.frames(states), Uint8Array),
      rewards: made.map(({ reward }) => reward),
      expected: made.map(({ expected }) => expected),
    });
  }
  return out;
}
"""

PLAY = """
async ({ seed, start, steps }) => {
  const { Model } = await import(new URL("model.js", location.href));
  const { Session } = await import(new URL("session.js", location.href));
  const model = (globalThis.testModel ??= await Model.load("games/Pong/"));
  const session = new Session(model, { seed, start });
  const codes = [];
  for (let t = 0; t < steps; t++) {
    await session.tick(0);
    codes.push(Array.from(session.dream.state.code).join());
  }
  return { codes, score: session.dream.score };
}
"""

PADDLE = """
() => {
  const [frame] = glamDream.view.frames;
  const rows = [];
  for (let y = 8; y < 58; y++) {
    for (let x = 55; x < 62; x++) {
      const at = 3 * (64 * y + x);
      if (frame[at + 1] > frame[at] + 20) rows.push(y);
    }
  }
  return rows.reduce((sum, y) => sum + y, 0) / rows.length;
}
"""


ASKED: list[str] = []  # addresses that the page has asked for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_once: None) -> Path:
    site = tmp_path_factory.mktemp("web") / "site"
    words = ["--to", str(site), "--starts", "8", "--recordings", "2"]
    assert main(["web", "Pong", "Boxing", *words]) == 0
    return site


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = make_server(site, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """A page that has loaded; whatever it complains of fails the last test."""
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 900})

        def guard(route: Any) -> None:
            ASKED.append(route.request.url)
            if route.request.url.startswith(address):
                route.continue_()
            else:
                problems.append(f"asked the network for {route.request.url}")
                route.abort()

        page.context.route("**/*", guard)
        page.on("console", lambda line: problems.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"no {request.url}"))
        page.set_default_timeout(60_000)
        yield page
        browser.close()
    assert problems == []


def begin(page: Any, address: str, *, seed: int, start: int = 0) -> None:
    """Begin a dream under the agent by the page's address; each needs a seed of its own."""
    page.goto(f"{address}#game=Pong&seed={seed}&start={start}")  # the same page: no reload
    page.wait_for_selector("html[data-ready]", state="attached")
    wait_for(page, f"glamDream.view.seed === {seed} && !glamDream.paused")
    if page.evaluate("glamDream.view.player") != "agent":
        page.keyboard.press("a")
        wait_for(page, "glamDream.view.player === 'agent'")


def wait_for(page: Any, condition: str) -> None:
    page.wait_for_function(f"() => {condition}", polling=20)


def step_of(page: Any) -> int:
    return page.evaluate("glamDream.view.dreams[0].step")


def test_a_site_is_as_small_as_promised(site: Path) -> None:
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    games = {
        game: sum(size for path, size in sizes.items() if game in path.parts)
        for game in ("Pong", "Boxing")
    }
    print(f"site {sum(sizes.values()) / MB:.2f} MB, of which {games} are bytes of the games")
    assert all(0 < size <= 6 * MB for size in games.values())
    assert sum(sizes.values()) - games["Boxing"] <= 25 * MB


def test_the_page_loads_and_plays(page: Any, address: str) -> None:
    begin(page, address, seed=7)
    first = page.evaluate("performance.getEntriesByName('first-frame')[0].startTime")
    wait_for(page, "glamDream.view.dreams[0].step >= 60")
    times = np.array(page.evaluate("glamDream.times"))
    median, high = np.percentile(times, [50, 95])
    print(f"first frame after {first / 1000:.2f} s; a step takes {median:.1f} ms, 95 % {high:.1f}")
    clock = "[glamDream.view.dreams[0].step, performance.now() / 1000]"
    begun = page.evaluate(clock)
    wait_for(page, f"glamDream.view.dreams[0].step >= {begun[0] + 45}")
    steps, seconds = np.subtract(page.evaluate(clock), begun)
    print(f"{steps:.0f} steps were played in {seconds:.2f} s, {steps / seconds:.1f} in a second")
    assert page.evaluate("glamDream.view.player") == "agent"
    assert page.locator("#uncertainty-bar").get_attribute("aria-valuenow").isdecimal()


def test_the_browser_computes_what_pytorch_computes(page: Any, site: Path) -> None:
    pong = load_trained("Pong", "cpu")
    model, values = pong.world_model, RewardValues(pong.world_model.reward_code, pong.reward_values)
    manifest = json.loads((site / "games/Pong/game.json").read_text())
    assert manifest["starts"] == STARTS
    state, stepper = unpacked_starts(site, model.memory.initial_state(1)), ModelStepper(model)
    found = page.evaluate(DREAM_ALL, {"starts": STARTS, "steps": STEPS})
    worst = {"reward": 0.0, "frame": 0}
    for t, row in enumerate(found):

        def read(name: str, dtype: type, *shape: int, row: dict = row) -> np.ndarray:
            return np.frombuffer(base64.b64decode(row[name]), dtype).reshape(STARTS, *shape)

        draws = torch.from_numpy(read("draws", np.float32, 34).copy())
        step = stepper.step(state, torch.tensor(row["actions"]), draws[:, :32].contiguous())
        state = step.state
        np.testing.assert_array_equal(read("codes", np.uint8, 32), state.code, err_msg=f"step {t}")
        drawn = values.sample(step.reward_logits, draws[:, 32])
        np.testing.assert_array_equal(row["rewards"], drawn)
        right = values.mean(step.reward_logits).numpy()
        worst["reward"] = max(worst["reward"], float(np.abs(row["expected"] - right).max()))
        frames = read("frames", np.uint8, 64, 64, 3).astype(int)
        difference = np.abs(frames - draw_frames(model, state.code).numpy().astype(int)).max()
        worst["frame"] = max(worst["frame"], int(difference))
    print(f"browser against PyTorch, {STARTS} starts of {STEPS} steps: {worst}")
    assert worst["reward"] <= 1e-4
    assert worst["frame"] <= 1


def unpacked_starts(site: Path, core: Any) -> DreamState:
    """Read a site's start states, by the inverse of what it packs them with."""
    import gzip

    manifest = json.loads((site / "games/Pong/game.json").read_text())
    packing = manifest["packed"]["starts.bin"]
    planes = gzip.decompress((site / "games/Pong" / packing["file"]).read_bytes())
    plain = np.frombuffer(planes, np.uint8).reshape(packing["width"], -1).T.tobytes()
    arrays = read_states(manifest, plain)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rest = iter([part for name, part in tensors.items() if name.startswith("core.")])
    return DreamState(tensors["code"].long(), tensors["h"], tree_map(lambda _: next(rest), core))


def test_the_same_seed_gives_the_same_game_and_the_agent_wins(page: Any) -> None:
    play = [page.evaluate(PLAY, {"seed": seed, "start": 2, "steps": 120}) for seed in (5, 5, 6)]
    assert play[0] == play[1]
    assert play[0]["codes"] != play[2]["codes"]
    scores = [
        page.evaluate(PLAY, {"seed": 11, "start": start, "steps": 150})["score"]
        for start in range(5)
    ]
    print(f"the agent's scores in dreams of 150 steps: {scores}")
    assert sum(scores) > 0


def test_keys_move_the_paddle(page: Any, address: str) -> None:
    rows = {}
    for seed, key in ((21, "ArrowUp"), (22, "ArrowDown")):
        begin(page, address, seed=seed)
        page.keyboard.down(key)
        wait_for(page, "glamDream.view.player === 'you'")
        before, here = page.evaluate(PADDLE), step_of(page)
        wait_for(page, f"glamDream.view.dreams[0].step >= {here + 4}")
        rows[key] = before, page.evaluate(PADDLE)
        page.keyboard.up(key)
    print(f"row of the paddle's middle, before and after: {rows}")
    assert rows["ArrowUp"][1] < rows["ArrowUp"][0] - 3
    assert rows["ArrowDown"][1] > rows["ArrowDown"][0] + 3
    page.keyboard.press("a")
    wait_for(page, "glamDream.view.player === 'agent'")


def test_pause_and_winding_back(page: Any, address: str) -> None:
    begin(page, address, seed=9)
    wait_for(page, "glamDream.view.dreams[0].step >= 10")
    page.keyboard.press("p")
    page.wait_for_timeout(200)
    there, shown = step_of(page), page.evaluate("Array.from(glamDream.view.frames[0])")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    wait_for(page, f"glamDream.view.dreams[0].step === {there - 5}")
    assert page.evaluate("Array.from(glamDream.view.frames[0])") != shown
    for step in range(there - 4, there + 1):
        page.keyboard.press("ArrowRight")
        wait_for(page, f"glamDream.view.dreams[0].step === {step}")
    assert page.evaluate("Array.from(glamDream.view.frames[0])") == shown


def test_four_futures_differ_and_one_goes_on(page: Any, address: str) -> None:
    begin(page, address, seed=10)
    wait_for(page, "glamDream.view.dreams[0].step >= 5")
    page.keyboard.press("b")
    wait_for(page, "glamDream.view.futures")
    here = step_of(page)
    wait_for(page, f"glamDream.view.dreams[0].step >= {here + 20}")
    frames = page.evaluate("glamDream.view.frames.map((frame) => frame.join())")
    assert len(frames) == len(set(frames)) == 4
    page.keyboard.press("p")
    page.wait_for_timeout(200)
    second = page.evaluate("glamDream.view.frames[1].join()")
    page.keyboard.press("2")
    wait_for(page, "!glamDream.view.futures")
    assert page.evaluate("glamDream.view.frames[0].join()") == second


def test_the_real_game_goes_on_beside_the_dream(page: Any, address: str, site: Path) -> None:
    begin(page, address, seed=11, start=1)
    page.wait_for_selector("#real:not([hidden])")
    page.keyboard.press("r")
    wait_for(page, "glamDream.view.player === 'recording'")
    wait_for(page, f"glamDream.view.dreams[0].step >= {step_of(page) + 2}")
    page.keyboard.press("p")
    page.wait_for_timeout(200)
    manifest = json.loads((site / "games/Pong/game.json").read_text())
    dream = page.evaluate("glamDream.view.dreams[0]")
    assert dream["action"] == manifest["recordings"][1]["actions"][dream["step"] - 1]
    begin(page, address, seed=12, start=5)
    assert page.locator("#real").is_hidden()


def test_the_picker_changes_the_game(page: Any, address: str) -> None:
    begin(page, address, seed=14)
    assert not any("games/Boxing/" in url for url in ASKED)
    assert page.evaluate("Array.from(document.querySelector('#game').options, (o) => o.value)") == [
        "Pong",
        "Boxing",
    ]
    parts = "Array.from(document.querySelectorAll('#pad button'), (each) => each.dataset.part)"
    of_pong, pong = page.evaluate(parts), page.evaluate("Array.from(glamDream.view.frames[0])")
    page.select_option("#game", "Boxing")
    wait_for(page, "document.title === 'GLAM Dream: Boxing' && !glamDream.paused")
    assert "game=Boxing" in page.url
    if page.evaluate("glamDream.view.player") != "agent":
        page.keyboard.press("a")
        wait_for(page, "glamDream.view.player === 'agent'")
    wait_for(page, "glamDream.view.dreams[0].step >= 60")
    score = page.evaluate("glamDream.view.dreams[0].score")
    print(f"Boxing's agent has {score} points after 60 steps")
    boxing = page.evaluate("Array.from(glamDream.view.frames[0])")
    assert len(boxing) == len(pong)
    background = np.median(np.reshape(boxing, (-1, 3)), axis=0)
    assert background.argmax() == 1  # a green ring; Pong's field is brown
    assert np.median(np.reshape(pong, (-1, 3)), axis=0).argmax() == 0
    assert set(page.evaluate(parts)) == {"UP", "DOWN", "LEFT", "RIGHT", "FIRE"} > set(of_pong)
    page.keyboard.down("ArrowLeft")
    wait_for(
        page, "glamDream.view.player === 'you' && glamDream.view.dreams[0].action === 4"
    )  # LEFT
    page.keyboard.up("ArrowLeft")
    page.select_option("#game", "Pong")
    wait_for(page, "document.title === 'GLAM Dream: Pong'")
    assert page.evaluate(parts) == of_pong
    begin(page, address, seed=15)
    wait_for(page, "glamDream.view.dreams[0].step >= 5")


def test_a_narrow_screen_and_touch(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    begin(page, address, seed=13)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#pad button", has_text="up").dispatch_event("pointerdown", {"pointerId": 1})
    wait_for(page, "glamDream.view.player === 'you'")
    wait_for(page, "glamDream.view.dreams[0].action === 2")  # RIGHT, which is up in Pong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "GAME is missing"),
        (["Pong"], "--to FOLDER"),
        (["Pong", "Pong", "--to", "{new}"], "given twice"),
        (["Pong", "--to", "{here}"], "is not empty"),
        (["Pong", "--to", "{new}", "--recordings", "-1"], "recordings"),
        (["Pong", "--serve", "--port", "70000"], "--port"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = [word.format(here=tmp_path, new=tmp_path / "new") for word in words]
    assert main(["web", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "new").exists()


def test_a_missing_npm_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["web", "Pong", "--to", str(tmp_path / "site")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs npm" in error
