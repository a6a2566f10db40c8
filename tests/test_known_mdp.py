"""Credit in a known game: dreamed rewards and ends come at the step that earned them."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from glam_env.envs.latent_filter import LatentFilter
from glam_env.model.config import LossConfig, WorldModelConfig
from glam_env.model.distributions import one_hot
from glam_env.model.structures import SequenceBatch
from glam_env.model.world_model import WorldModel
from glam_env.training.replay import Replay

CELLS, STAY, ADVANCE = 6, 0, 1
PAYS, KILLS = 2, 4  # advancing from these cells earns 1, or ends a life
CONTEXT, AHEAD = 16, 24


class Walk(NamedTuple):
    """Random walks on a ring of cells: ``cells`` and ``actions``, (B, L) int64."""

    cells: Tensor
    actions: Tensor

    def earned(self, cell):
        """Return (B, L) bool, the steps that advance from a cell."""
        return (self.cells == cell) & (self.actions == ADVANCE)


def draw_walks(rows, length, generator):
    actions = torch.where(torch.rand(rows, length, generator=generator) < 0.6, ADVANCE, STAY)
    starts = torch.randint(CELLS, (rows, 1), generator=generator)
    return Walk((starts + actions.cumsum(1) - actions) % CELLS, actions)


def draw_cells(cells):
    """Draw (...) int64 cells as (..., 64, 64, 3) uint8: one white square of two rows of three."""
    pictures = torch.zeros(CELLS, 64, 64, 3, dtype=torch.uint8)
    for cell in range(CELLS):
        top, left = 32 * (cell // 3) + 6, 21 * (cell % 3)
        pictures[cell, top : top + 20, left : left + 20] = 255
    return pictures[cells]


def batch_of(walk):
    images = draw_cells(walk.cells)
    rewards, kills = walk.earned(PAYS).float(), walk.earned(KILLS)
    return SequenceBatch(images, walk.actions, rewards, kills, torch.ones_like(kills))


def train(draw):
    """Train a tiny world model on 200 batches."""
    config = WorldModelConfig(num_actions=2, stem=4, categoricals=4, classes=4, width=32)
    loss_config = LossConfig(free_nats=0.1, decode_fraction=0.25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        world = WorldModel(config)
        trained = [p for p in world.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=4e-3)
        for _ in range(200):
            loss, _, _ = world.loss(draw(), loss_config)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 100.0)
            optimizer.step()
    return world.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    """Train on walks."""
    generator = torch.Generator().manual_seed(0)
    return train(lambda: batch_of(draw_walks(8, 16, generator)))


@pytest.fixture(scope="module")
def walk():
    return draw_walks(64, CONTEXT + AHEAD, torch.Generator().manual_seed(9))


def start_by_warm_up(model, walk):
    codes = model.encode(draw_cells(walk.cells[:, : CONTEXT + 1])).argmax(-1)
    return model.warm_up(codes, walk.actions[:, :CONTEXT])


def start_from_a_training_batch(model, walk):
    known = Walk(walk.cells[:, : CONTEXT + 1], walk.actions[:, : CONTEXT + 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, posterior = model.loss(batch_of(known), LossConfig())
    rows = torch.arange(len(walk.cells))
    return model.dream_starts(posterior, rows, torch.full_like(rows, CONTEXT))


def start_from_real_frames(model, walk):
    watcher = LatentFilter(model, len(walk.cells), torch.Generator().manual_seed(0))
    for t in range(CONTEXT + 1):
        watcher.see(draw_cells(walk.cells[:, t]), torch.full((len(walk.cells),), t == 0))
        if t < CONTEXT:
            watcher.act(walk.actions[:, t])
    return watcher.state


def play(model, state, actions, **options):
    """Dream under given (E, T) actions.

    Returns:
        The cells in the images before each step, the rewards and the termination logits, (E, T).
    """
    pictures = draw_cells(torch.arange(CELLS)) / 255.0
    cells, rewards, logits = [], [], []
    for action in actions.unbind(1):
        image = model.decode(state.code)
        cells.append((image[:, None] - pictures).square().sum((2, 3, 4)).argmin(1))
        step = model.step(state, action, **options)
        state = step.state
        rewards.append(step.reward)
        logits.append(step.termination_logit)
    return torch.stack(cells, 1), torch.stack(rewards, 1), torch.stack(logits, 1)


STARTS = [start_by_warm_up, start_from_a_training_batch, start_from_real_frames]


@pytest.mark.parametrize("begin", STARTS, ids=lambda begin: begin.__name__)
def test_dreamed_rewards_and_ends_come_at_the_step_that_earned_them(model, walk, begin):
    rest = Walk(walk.cells[:, CONTEXT:], walk.actions[:, CONTEXT:])
    cells, rewards, logits = play(model, begin(model, walk), rest.actions, temperature=0.0)
    right = (cells == rest.cells).all(1)
    assert right.float().mean() > 0.8  # a code drawn from the posterior may be the wrong cell
    for dreamed, truth in ((rewards > 0.5, rest.earned(PAYS)), (logits > 0.0, rest.earned(KILLS))):
        assert torch.equal(dreamed[right], truth[right])
        # One step late or early, such a dream would be wrong about every event.
        for other in (truth.roll(1, 1), truth.roll(-1, 1)):
            assert (dreamed != other)[right].float().mean() > 0.15
    torch.testing.assert_close(rewards[right], rest.earned(PAYS)[right].float(), atol=0.2, rtol=0.0)


def test_a_sampled_dream_is_one_future(model, walk):
    """Frame, reward and end of a step agree, also where it is not the most probable one."""
    cells, rewards, logits = play(
        model,
        start_by_warm_up(model, walk),
        walk.actions[:, CONTEXT:],
        generator=torch.Generator().manual_seed(0),
        temperature=2.0,
    )
    assert (cells != walk.cells[:, CONTEXT:]).float().mean() > 0.1
    dreamed = Walk(cells, walk.actions[:, CONTEXT:])
    for predicted, follows in (
        (rewards > 0.5, dreamed.earned(PAYS)),
        (logits > 0, dreamed.earned(KILLS)),
    ):
        agree = (predicted == follows)[:, 1:].float().mean()
        assert agree > 0.9
        assert agree > 0.05 + (predicted == follows.roll(1, 0))[:, 1:].float().mean()


# --- episodes that are shorter than a window ------------------------------------------------------


def record(replay, steps, rng):
    """Play from the first cell to beyond the last, which alone earns 1 and ends the episode."""
    cells = np.zeros(replay.streams, np.int64)
    for _ in range(steps):
        actions = np.where(rng.random(replay.streams) < 0.6, ADVANCE, STAY)
        ends = (cells == CELLS - 1) & (actions == ADVANCE)
        images = draw_cells(torch.from_numpy(cells)).numpy()
        replay.add(images, actions, ends.astype(np.float32), ends, ends, np.zeros_like(ends))
        cells = np.where(ends, 0, cells + actions)


def test_a_reward_at_the_last_step_alone_is_learned(tmp_path):
    """Episodes last 10 steps on average, windows 24: none fits into an episode."""
    replay, rng = Replay(tmp_path, 4, 250), np.random.default_rng(0)
    record(replay, 250, rng)
    model = train(lambda: replay.sample(8, 24, rng))
    held_out = Replay(tmp_path / "held out", 4, 250)
    record(held_out, 250, rng)
    batch = held_out.sample(64, 24, rng)
    with torch.no_grad():
        z = one_hot(model.encode(batch.images).argmax(-1), 4).flatten(-2)
        h = model.core(model.embed(z, batch.actions)).h
        rewards = model.reward_code.mean(model.reward(h))
        ends = model.termination(h).squeeze(-1) > 0.0
    start = model.core.context - 1
    valid, truth = batch.valid[:, start:], batch.life_lost[:, start:]
    assert (truth & valid).sum() > 20
    assert torch.equal(ends[valid], truth[valid])
    torch.testing.assert_close(rewards[valid], truth[valid].float(), atol=0.2, rtol=0.0)
