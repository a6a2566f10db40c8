"""Random sequences of reset, step, mask and set_state: dreams stay independent.

A dream that is reset is as fresh as one in a new env.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import assert_same
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from glam_env.envs.dream.env import DreamVectorEnv
from glam_env.envs.dream.snapshot import DreamSnapshot

E, CONTEXTS, ACTIONS, HORIZON = 3, 20, 6, 4
MODES = [mode.name for mode in AutoresetMode]
WATCHED = 1  # the middle row, whose neighbours are free

OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "max_episode_steps": HORIZON,
    "termination": "sample",
    "reward": "sample",
}
thorough = settings(max_examples=40, deadline=None, derandomize=True, database=None)

rows = st.integers(0, E - 1)
actions = st.lists(st.integers(0, ACTIONS - 1), min_size=E, max_size=E)
masks = st.lists(st.booleans(), min_size=E, max_size=E)
moments = st.none() | st.lists(st.integers(0, CONTEXTS - 1), min_size=E, max_size=E)


@dataclass(frozen=True)
class Step:
    actions: list[int]


@dataclass(frozen=True)
class Reset:
    """Of a mask's rows, from given moments or drawn ones."""

    mask: list[bool]
    moments: list[int] | None


@dataclass(frozen=True)
class Keep:
    """Take a snapshot."""


@dataclass(frozen=True)
class Restore:
    """Return to the snapshot: whole with its draws, or some of its rows without."""

    rows: list[int] | None


Act = Step | Reset | Keep | Restore
acts = st.one_of(
    *[st.builds(Step, actions)] * 4,
    st.builds(Reset, masks, moments),
    st.builds(Keep),
    st.builds(Restore, st.none() | st.lists(rows, min_size=E, max_size=E)),
)


class Player:
    """Carry out acts in an env where they are possible; return what the watched row saw."""

    def __init__(self, envs: DreamVectorEnv, seed: int) -> None:
        self.envs = envs
        self.seen: list[Any] = []
        self._note(self._row(envs.reset(seed=seed)[0]))
        self._snapshot = envs.get_state()

    def do(self, act: Act) -> None:
        envs = self.envs
        if isinstance(act, Keep):
            self._snapshot = envs.get_state()
        elif isinstance(act, Restore):
            kept = self._snapshot if act.rows is None else self._snapshot.rows(act.rows)
            self._note(self._row(envs.set_state(kept)))
        elif isinstance(act, Reset):
            self._reset(np.array(act.mask), act.moments)
        else:
            waiting = envs.get_state().done.numpy()
            if envs.autoreset_mode is AutoresetMode.DISABLED:
                self._reset(waiting, None)
            parts = envs.step(np.array(act.actions))
            info = parts[4]
            self._note(self._row(parts[0]))
            self.seen.append([self._row(part) for part in parts[1:4]])
            self.seen.append([self._row(info["prior_entropy"]), self._row(info["_prior_entropy"])])
            if "final_obs" in info and info["_final_obs"][WATCHED]:
                self.seen.append(info["final_obs"][WATCHED].copy())

    def _reset(self, mask: np.ndarray, moments: list[int] | None) -> None:
        if mask.any():
            options = {"reset_mask": mask}
            if moments is not None:
                options["context"] = np.array(moments)
            observation = self._row(self.envs.reset(options=options)[0])
            if mask[WATCHED]:
                self._note(observation)
            else:
                assert_same(observation, self._shown)

    def _note(self, observation: np.ndarray) -> None:
        self._shown = observation
        self.seen.append(observation)

    def _row(self, values: np.ndarray) -> np.ndarray:
        return np.array(values[WATCHED])


@pytest.fixture(scope="module")
def envs_of(saved_checkpoint: Path) -> Iterator[Any]:
    """The module's two envs of a mode; their past makes no difference."""
    made: dict[str, list[DreamVectorEnv]] = {}

    def of(mode: str) -> list[DreamVectorEnv]:
        if mode not in made:
            options = {"checkpoint": saved_checkpoint, "autoreset_mode": mode} | OPTIONS
            options["obs_type"] = "rgb" if mode == "SAME_STEP" else "latent"
            made[mode] = [DreamVectorEnv("Pong", E, **options) for _ in range(2)]
        return made[mode]

    yield of
    for pair in made.values():
        for envs in pair:
            envs.close()


def meddled(act: Act, other: Act) -> Act:
    """The same act for the watched row, another for its neighbours."""

    def mix(own: list[Any], foreign: list[Any]) -> list[Any]:
        return [own[row] if row == WATCHED else foreign[row] for row in range(E)]

    if isinstance(act, Step) and isinstance(other, Step):
        return Step(mix(act.actions, other.actions))
    if isinstance(act, Reset) and isinstance(other, Reset):
        moments = act.moments
        if moments is not None and other.moments is not None:
            moments = mix(moments, other.moments)
        return Reset(mix(act.mask, other.mask), moments)
    if isinstance(act, Restore) and isinstance(other, Restore):
        both = act.rows is not None and other.rows is not None
        return Restore(mix(act.rows, other.rows)) if both else act
    return act


pairs = st.one_of(
    *[st.tuples(st.builds(Step, actions), st.builds(Step, actions))] * 4,
    st.tuples(st.builds(Reset, masks, moments), st.builds(Reset, masks, moments)),
    st.tuples(st.builds(Keep), st.builds(Keep)),
    # The watched dream continues from itself: other rows may differ between the two worlds.
    st.builds(
        lambda one, other: (Restore(one), Restore(other)),
        *[st.tuples(rows, st.just(WATCHED), rows).map(list)] * 2,
    ),
    st.just((Restore(None), Restore(None))),
)


@pytest.mark.parametrize("mode", MODES)
def test_no_dream_ever_influences_another(envs_of, mode) -> None:
    """Two worlds differ in everything but one row; that row is the same in both, to the bit."""
    one, other = envs_of(mode)

    @thorough
    @given(st.integers(0, 2**32), st.lists(pairs, min_size=10, max_size=20))
    def property_(seed: int, sequence: list[tuple[Act, Act]]) -> None:
        ours, theirs = Player(one, seed), Player(other, seed)
        for act, foreign in sequence:
            ours.do(act)
            theirs.do(meddled(act, foreign))
        assert_same(ours.seen, theirs.seen)

    property_()


def of_one(snapshot: DreamSnapshot, row: int) -> list[Any]:
    """Return all that a snapshot contains of a dream, in numpy."""
    own = snapshot.rows(row)
    dream = own.engine.dream
    parts = [dream.code, dream.h, *dream.core, own.engine.steps, own.done]
    return [part.numpy() for part in parts if isinstance(part, torch.Tensor)] + [
        None if own.frames is None else own.frames.numpy()
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_dream_is_as_fresh_as_a_new_one(envs_of, mode) -> None:
    """After any past; and it continues as the new one does."""
    used, fresh = envs_of(mode)

    @thorough
    @given(
        st.integers(0, 2**32),
        st.lists(acts, max_size=15),
        rows,
        st.integers(0, CONTEXTS - 1),
        st.lists(actions, min_size=HORIZON, max_size=HORIZON),
    )
    def property_(
        seed: int, sequence: list[Act], row: int, moment: int, then: list[list[int]]
    ) -> None:
        player = Player(used, seed)
        for act in sequence:
            player.do(act)
        before = used.get_state()
        mask = np.arange(E) == row
        began, _ = used.reset(options={"reset_mask": mask, "context": moment})
        after = used.get_state()
        for other in set(range(E)) - {row}:
            assert_same(of_one(before, other), of_one(after, other))

        first, _ = fresh.reset(seed=0, options={"context": moment})
        assert_same(began[row], first[row])
        assert_same(of_one(after, row), of_one(fresh.get_state(), row))
        fresh.engine.set_draws(after.draws)
        for step, chosen in enumerate(then):
            for envs in (used, fresh):
                waiting = envs.get_state().done.numpy()
                if envs.autoreset_mode is AutoresetMode.DISABLED and waiting.any():
                    envs.reset(options={"reset_mask": waiting})
            ours, theirs = (envs.step(np.array(chosen)) for envs in (used, fresh))
            assert_same([part[row] for part in ours[1:4]], [part[row] for part in theirs[1:4]])
            entropies = [parts[4]["prior_entropy"][row] for parts in (ours, theirs)]
            assert_same(*entropies)
            if ours[2][row] or ours[3][row]:
                assert ours[2][row] or step == HORIZON - 1
                break
            assert_same(ours[0][row], theirs[0][row])
        else:
            raise AssertionError("it went on past its horizon")

    property_()
