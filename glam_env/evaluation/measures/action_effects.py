"""Effects of actions from real moments, in the game and in dreams.

An agent that learns in dreams learns from the differences between the returns of actions. Open loop
along real play does not test these: a dream may predict well what follows the actions that were
taken, and still let a point depend on an unrelated action. This measure holds each action for some
steps from moments of held-out play, in the game, which is rewound, and in dreams. It compares the
returns. Moments at which the game gives rewards in the last few steps are left out, because a dream
may be late by a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from glam_env.checkpoint.contexts import CONTEXT_LENGTH
from glam_env.envs.atari.rewind import RewindableGame
from glam_env.envs.latent_filter import Act, FilteredPolicy
from glam_env.errors import GlamError
from glam_env.evaluation.bootstrap import Interval, draw_rows, interval
from glam_env.evaluation.measures.base import Measure, Subject
from glam_env.evaluation.play.recording import HELD_OUT, add_noise
from glam_env.evaluation.play.scores import seed_apart
from glam_env.evaluation.rows import Row
from glam_env.fast.choose import make_stepper
from glam_env.games import find_game
from glam_env.model.distributions import sample_codes
from glam_env.model.world_model import WorldModel
from glam_env.protocols import PlaySettings

LATE = 2  # steps that a dream may be late
STRIDE = 4  # least number of steps from one moment to the next
PLAYS_A_STEP = 1.5  # actions tried per real step; with many actions, moments are further apart
BATCH = 32  # moments at a time
RESAMPLES = 2000  # of the bootstrap


class Moments(NamedTuple):
    """`M` moments of real play.

    `frames` (M, C + 1, 64, 64, 3) uint8 and `actions` (M, C) int64 lead up to them; `returns`
    (M, A) float32 are the returns of each action when it is held.
    """

    frames: np.ndarray
    actions: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True)
class BranchReport(Measure):
    """Results of `compare_branches`.

    An action's effect is its return less the actions' mean.

    Attributes:
        moments: Real moments from which each action was tried.
        decided: Those at which the game's returns differ between the actions.
        horizon, context, futures, seed: Settings of the measurement.
        pairs: Pairs of actions at one moment whose returns in the game differ.
        right: Share of them in which the dreams' mean returns have the same order; 0.5 by chance.
        explained: Share of the variance of the game's effects that the dreams explain, over all
            moments: 1 if they are equal, 0 if dreams give every action the same return, negative
            if the dreams' effects are worse than none.
        regret: Share of the points at stake at the decided moments that the dreams' best action
            loses in the game: 0 if it is always the best one, 1 if it is no better than a
            random one.
        right_interval, explained_interval, regret_interval: 95 % bootstrap intervals over moments.
        false_difference: Largest less least of the dreams' mean returns at moments where the
            game's are all the same; mean, in points.
        true_difference, dreamt_difference: The same at decided moments, in the game and in dreams.
    """

    moments: int
    decided: int
    horizon: int
    context: int
    futures: int
    seed: int
    pairs: int
    right: float | None
    explained: float | None
    regret: float | None
    right_interval: Interval | None
    explained_interval: Interval | None
    regret_interval: Interval | None
    false_difference: float | None
    true_difference: float | None
    dreamt_difference: float | None

    @classmethod
    def measure(cls, subject: Subject) -> BranchReport | None:
        """Try each action; None if the settings try none."""
        settings = subject.settings
        if not settings.branch_steps:
            return None
        return compare_branches(
            subject.world_model,
            subject.act,
            subject.game,
            noise=tuple(subject.players.values()),
            steps=settings.branch_steps,
            context=settings.context,
            seed=settings.seed + 2,  # other games than those of the other measures
            play=settings.play,
            on_step=subject.step_counter("each action tried (steps)", settings.branch_steps),
        )

    @property
    def about(self) -> str:
        """What was compared."""
        return (
            f"Each action held for {self.horizon} steps from {self.moments} moments of held-out "
            f"play, in the game, which is rewound, and in {self.futures} dreams. In the game the "
            f"action matters at {self.decided} of the moments. An action's effect is its return "
            "less the actions' mean."
        )

    def rows(self) -> list[Row]:
        """Return the figures, with the values by chance where there are any."""
        size = "range of the actions' returns"
        return [
            Row(
                "share of pairs of actions that dreams order as the game does",
                self.right,
                self.right_interval,
                0.5,
            ),
            Row(
                "share of the variance of effects explained",
                self.explained,
                self.explained_interval,
                0.0,
            ),
            Row(
                "share of the points at stake lost by the dreams' best action",
                self.regret,
                self.regret_interval,
                1.0,
            ),
            Row(f"{size}, game, where it matters", self.true_difference),
            Row(f"{size}, dreams, where it matters", self.dreamt_difference),
            Row(f"{size}, dreams, where it does not", self.false_difference),
        ]


def compare_branches(
    world_model: WorldModel,
    act: Act,
    game: str,
    *,
    noise: Sequence[float] = (0.0,),
    steps: int = 2400,
    stride: int | None = None,
    horizon: int = 16,
    futures: int = 8,
    context: int = CONTEXT_LENGTH,
    seed: int = 0,
    play: PlaySettings | None = None,
    on_step: Callable[[int], None] | None = None,
) -> BranchReport:
    """Try each action from moments of real play, in the game and in dreams.

    Sticky actions are the same for all actions that are tried at a moment.

    Args:
        world_model: In evaluation mode.
        act: The policy that plays up to the moments.
        game: Name of the game.
        noise: Chances that one of its actions is random, one for each game that is played.
        steps: Real steps, shared by the games.
        stride: Steps from one moment to the next; None for `usual_stride`, with which games
            with many actions take no longer than others.
        horizon: Steps for which each action is held.
        futures: Dreams of each action at each moment.
        context: Real steps that warm a dream up.
        seed: Seed of all random draws.
        play: Settings of the real game.
        on_step: Called with the number of steps played.

    Raises:
        GlamError: For an impossible value, or if the play is too short for one moment.
    """
    if futures < 1:
        raise GlamError("futures must be at least 1")
    moments = play_moments(
        world_model,
        act,
        game,
        noise=noise,
        steps=steps,
        stride=stride,
        horizon=horizon,
        context=context,
        seed=seed,
        play=play,
        on_step=on_step,
    )
    dreamt = dream_branches(world_model, moments, horizon, futures, seed)
    figures = compare_returns(moments.returns, dreamt, seed)
    return BranchReport(
        moments=len(moments.frames),
        horizon=horizon,
        context=context,
        futures=futures,
        seed=seed,
        **figures,
    )


def play_moments(
    world_model: WorldModel,
    act: Act,
    game: str,
    *,
    noise: Sequence[float] = (0.0,),
    steps: int = 2400,
    stride: int | None = None,
    horizon: int = 16,
    context: int = CONTEXT_LENGTH,
    seed: int = 0,
    play: PlaySettings | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Moments:
    """Play the real game and try each action on the way; see `compare_branches`.

    Raises:
        GlamError: For an impossible value, or if the play is too short for one moment.
    """
    num_actions = world_model.config.num_actions
    stride = usual_stride(num_actions) if stride is None else stride
    if min(steps, stride, horizon, context) < 1:
        raise GlamError("steps, stride, horizon and context must be at least 1")
    parts = []
    share = -(-steps // len(noise))
    for number, chance in enumerate(noise):
        policy = FilteredPolicy(world_model, add_noise(act, num_actions, (chance,)))
        parts += _find_moments(
            policy,
            RewindableGame(find_game(game), play),
            share,
            stride,
            horizon,
            context,
            seed + number,
            lambda done, before=number * share: on_step(before + done) if on_step else None,
        )
    if not parts:
        raise GlamError(
            f"{steps} steps of {game} hold no moment with {context} steps before it; play more"
        )
    return Moments(*map(np.stack, zip(*parts, strict=True)))


def usual_stride(num_actions: int) -> int:
    """Return the usual number of steps from one moment to the next.

    It grows with the number of actions, since each action is tried at each moment.
    """
    return max(STRIDE, round(num_actions / PLAYS_A_STEP))


def _find_moments(
    policy: FilteredPolicy,
    game: RewindableGame,
    steps: int,
    stride: int,
    horizon: int,
    context: int,
    seed: int,
    on_step: Callable[[int], None],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Play a game and try each action on the way.

    Returns:
        The parts of `Moments`, one tuple for each moment.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    episode_seeds = np.random.default_rng(seed_apart(HELD_OUT, seed))
    frames: list[np.ndarray] = []  # of the episode, up to now
    actions: list[int] = []
    policy.begin(1, seed)
    frame = game.reset(int(episode_seeds.integers(2**31)))
    for t in range(steps):
        frames.append(frame)
        if t % stride == 0 and len(actions) >= context:
            rewards = game.try_each(horizon + LATE)
            if not rewards[:, -2 * LATE :].any():
                known = np.stack(frames[-context - 1 :]), np.array(actions[-context:])
                found.append((*known, rewards.sum(1)))
        action = policy.act(frame[None], np.array([len(frames) == 1]))
        step = game.step(int(action[0]))
        frame = game.frame()
        actions.append(int(action[0]))
        if step.terminated or step.truncated:
            frames, actions = [], []
            frame = game.reset(int(episode_seeds.integers(2**31)))
        on_step(t + 1)
    return found


@torch.no_grad()
def dream_branches(
    world_model: WorldModel, moments: Moments, horizon: int, futures: int, seed: int
) -> np.ndarray:
    """Hold each action in dreams from some moments.

    As in training, a reward is the mean of the head's distribution, and a dream ends where an
    end is likelier than not. The futures of one moment use the same random draws for each action,
    so that chance alone makes no difference between actions.

    Returns:
        (M, A) float32, the mean return of `futures` dreams.
    """
    device, num_actions = world_model.device, world_model.config.num_actions
    stepper = make_stepper(world_model)
    generator = torch.Generator(device).manual_seed(seed)
    means = []
    for start in range(0, len(moments.frames), BATCH):
        frames, actions, _ = (torch.from_numpy(part[start : start + BATCH]) for part in moments)
        codes = sample_codes(world_model.encode(frames.to(device)), generator=generator)
        state = world_model.warm_up(codes, actions.to(device))
        each = torch.arange(len(frames), device=device).repeat_interleave(num_actions * futures)
        state = state.rows(each)
        held = torch.arange(num_actions, device=device).repeat_interleave(futures)
        held = held.repeat(len(frames))
        draws = (len(frames), 1, futures, world_model.config.categoricals)
        returns = torch.zeros(len(held), device=device)
        alive = torch.ones(len(held), dtype=torch.bool, device=device)
        for _ in range(horizon):
            draw = torch.rand(draws, generator=generator, device=device)
            draw = draw.expand(-1, num_actions, -1, -1).flatten(0, 2)
            step = stepper.step(state, held, draw)
            state = step.state
            returns += torch.where(alive, step.reward, 0.0)
            alive &= step.termination_logit <= 0.0
        means.append(returns.view(len(frames), num_actions, futures).mean(-1))
    return torch.cat(means).cpu().numpy()


def compare_returns(real: np.ndarray, dreamt: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Compute the figures of a `BranchReport` from (M, A) returns of both worlds."""
    effect, guess = (part - part.mean(1, keepdims=True) for part in (real, dreamt))
    variance = (effect**2).sum(1)
    error = ((effect - guess) ** 2).sum(1)
    better = real[:, :, None] > real[:, None, :]  # the first action than the second
    order = np.sign(dreamt[:, :, None] - dreamt[:, None, :])
    right = (better * (1.0 + order) / 2.0).sum((1, 2))
    pairs = better.sum((1, 2))
    chosen = np.take_along_axis(real, dreamt.argmax(1)[:, None], 1)[:, 0]
    lost, at_stake = real.max(1) - chosen, real.max(1) - real.mean(1)
    spread = {name: np.ptp(part, 1) for name, part in (("real", real), ("dreamt", dreamt))}
    decided = spread["real"] > 0
    figures: dict[str, Any] = {"decided": int(decided.sum()), "pairs": int(pairs.sum())}

    rows = draw_rows(np.random.default_rng(seed), len(real), RESAMPLES)
    for name, above, below in (
        ("right", right, pairs),
        ("explained", variance - error, variance),
        ("regret", lost, at_stake),
    ):
        figures[name] = float(above.sum() / below.sum()) if below.sum() else None
        figures[f"{name}_interval"] = interval(
            lambda rows, above=above, below=below: above[rows].sum(1) / below[rows].sum(1), rows
        )
    for name, part, where in (
        ("false_difference", spread["dreamt"], ~decided),
        ("true_difference", spread["real"], decided),
        ("dreamt_difference", spread["dreamt"], decided),
    ):
        figures[name] = float(part[where].mean()) if where.any() else None
    return figures
