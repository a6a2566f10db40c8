"""The world models that are timed: a checkpoint's if it has a preset's sizes, else random."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from glam_env.checkpoint.config import CheckpointConfig, ContextsConfig, PlaySettings, Provenance
from glam_env.checkpoint.contexts import CONTEXT_LENGTH, Contexts
from glam_env.checkpoint.folder import Checkpoint, save_checkpoint, shipped_checkpoints
from glam_env.errors import GlamError
from glam_env.games import find_game
from glam_env.model.config import WorldModelConfig
from glam_env.model.world_model import WorldModel
from glam_env.training.presets import PRESETS

START_CONTEXTS = 256
"""Few enough to warm up all of them before the timing, as they are in a long run."""

HORIZON = 64  # of random weights' dreams

# Fields of a world model's config that are no sizes.
_UNSIZED = ("unimix", "draw_temperature", "sharp_prior")


@dataclass(frozen=True)
class BenchWorld:
    """A checkpoint folder to time dreams of.

    Attributes:
        game: Name of the game.
        preset: Name of the preset.
        folder: The checkpoint, with at most `START_CONTEXTS` contexts.
        weights: Where the weights come from, in words.
        config: Sizes of the world model.
        parameters: Number of parameters of the world model.
        horizon: Steps of a dream.
    """

    game: str
    preset: str
    folder: Path
    weights: str
    config: WorldModelConfig
    parameters: int
    horizon: int

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `json.dumps`."""
        return {
            "weights": self.weights,
            "parameters": self.parameters,
            "horizon": self.horizon,
            "sizes": asdict(self.config),
        }


def preset_sizes(game: str, preset: str) -> WorldModelConfig:
    """Return the sizes of a preset's world model of a game.

    Raises:
        GlamError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise GlamError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    return replace(PRESETS[preset].model, num_actions=find_game(game).num_actions)


def find_weights(
    game: str, presets: tuple[str, ...], checkpoint: str | None
) -> dict[str, Checkpoint | None]:
    """Find for each preset the checkpoint of that preset or of its sizes, None if there is none.

    Args:
        game: A game's name.
        presets: Names of presets.
        checkpoint: A checkpoint, as for dreams; None for the game's own, if it has one.

    Raises:
        GlamError: If the named checkpoint is broken, or neither is of one of the presets nor has
            the sizes of one.
    """
    sizes = {preset: preset_sizes(game, preset) for preset in presets}
    if checkpoint is None and game not in shipped_checkpoints():
        return dict.fromkeys(presets)
    opened = Checkpoint.open(game if checkpoint is None else checkpoint, game)
    trained_with = opened.config.provenance.preset  # its sizes then may have been others
    found = {
        preset: opened
        if preset == trained_with or _same_sizes(own, opened.config.world_model)
        else None
        for preset, own in sizes.items()
    }
    if checkpoint is not None and not any(found.values()):
        raise GlamError(
            f"checkpoint {opened.path} is of no preset named here "
            f"({', '.join(presets)}); name its own with --preset"
        )
    return found


def _same_sizes(one: WorldModelConfig, other: WorldModelConfig) -> bool:
    unsized = {name: getattr(one, name) for name in _UNSIZED}
    return one == replace(other, **unsized)


def make_world(game: str, preset: str, weights: Checkpoint | None, parent: Path) -> BenchWorld:
    """Write the checkpoint that a preset is timed with.

    Random weights dream nonsense, which takes as long as sense. Their dreams never end before the
    horizon; those of a good player rarely do.

    Args:
        game: A game's name.
        preset: Name of the preset.
        weights: A checkpoint of these sizes; None for random weights.
        parent: Folder in which the checkpoint's folder is made.
    """
    if weights is None:
        sizes = preset_sizes(game, preset)
        state, contexts = _random_model(sizes), _random_contexts(sizes)
        origin = Provenance(preset, 0, 0, 0.0, "random weights", 0, {"torch": torch.__version__})
        config = CheckpointConfig(
            game=game,
            world_model=sizes,
            agent={"class": "none"},
            contexts=ContextsConfig(contexts.count, contexts.length),
            max_episode_steps=HORIZON,
            protocol=PlaySettings(),
            provenance=origin,
        )
        source = "random, of this preset's sizes"
    else:
        config = Checkpoint.open(weights, game).config
        state, all_contexts = weights.world_model().export_state(), weights.contexts()
        contexts = Contexts(
            all_contexts.codes[:START_CONTEXTS], all_contexts.actions[:START_CONTEXTS]
        )
        config = replace(config, contexts=ContextsConfig(contexts.count, contexts.length))
        source = f"checkpoint {weights.path.name}"
    folder = save_checkpoint(
        parent / preset / game,
        config=config,
        world_model_state=state,
        agent_state={},
        contexts=contexts,
        card="",
    )
    parameters = sum(tensor.numel() for tensor in state.values())
    return BenchWorld(
        game, preset, folder, source, config.world_model, parameters, config.max_episode_steps
    )


def _random_model(sizes: WorldModelConfig) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WorldModel(sizes)
    last = model.termination.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.constant_(last.bias, -10.0)
    return {name: value.detach() for name, value in model.export_state().items()}


def _random_contexts(sizes: WorldModelConfig) -> Contexts:
    generator = torch.Generator().manual_seed(0)

    def draw(limit: int, *shape: int) -> torch.Tensor:
        return torch.randint(limit, shape, generator=generator, dtype=torch.uint8)

    return Contexts(
        draw(sizes.classes, START_CONTEXTS, CONTEXT_LENGTH + 1, sizes.categoricals),
        draw(sizes.num_actions, START_CONTEXTS, CONTEXT_LENGTH),
    )
