"""The process of `benchmarks/peers.py` that runs torchwm, in a Python that has it.

It reads a line of JSON with the settings and answers with what it made. Then it reads names of
players, and answers each with the env steps a second of one turn.

torchwm (0.4) has no env around a world model: its env classes wrap real ones, one at a time, in
numpy. Its fastest world model is Dreamer's RSSM. Here it steps as in its own `imagine_rollout`,
with the same modules in the sizes of its `DreamerConfig`: one batch, float32, without gradients, a
reward at every step and, for `rgb`, the mean of its decoder (no conversion to uint8, no ends and no
resets, all of which a dream env pays for).
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from typing import Any

import torch


class Dreams:
    """E dreams of an untrained Dreamer.

    Args:
        num_envs: E.
        frames: Whether each step draws a frame.
        num_actions: A, the width of one-hot actions.
    """

    def __init__(self, num_envs: int, frames: bool, num_actions: int) -> None:
        from world_models.configs.dreamer_config import DreamerConfig
        from world_models.models.dreamer_rssm import RSSM
        from world_models.vision.dreamer_decoder import ConvDecoder, DenseDecoder

        c = DreamerConfig()
        sizes = {"stoch_size": c.stoch_size, "deter_size": c.deter_size}
        self.rssm = RSSM(
            action_size=num_actions,
            hidden_size=c.deter_size,
            obs_embed_size=c.obs_embed_size,
            activation=c.dense_activation_function,
            **sizes,
        ).eval()
        self.reward = DenseDecoder(
            output_shape=(1,),
            n_layers=2,
            units=c.num_units,
            activation=c.dense_activation_function,
            dist="normal",
            **sizes,
        ).eval()
        self.decoder = ConvDecoder(
            output_shape=(3, *c.image_size), activation=c.cnn_activation_function, **sizes
        ).eval()
        self.num_envs, self.frames = num_envs, frames
        self.actions = torch.eye(num_actions)[torch.randint(num_actions, (64, num_envs))]
        self.state = self.rssm.init_state(num_envs, torch.device("cpu"))

    @property
    def parameters(self) -> int:
        """Return the number of parameters in the parts that dreams use."""
        parts = (self.rssm, self.reward, self.decoder)
        return sum(p.numel() for part in parts for p in part.parameters())

    @torch.no_grad()
    def step(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next observation, (E, 3, 64, 64) or (E, F) float32, and the reward (E, 1)."""
        self.state = self.rssm.imagine_step(self.state, self.actions[at % len(self.actions)])
        features = torch.cat([self.state["stoch"], self.state["deter"]], -1)
        seen = self.decoder(features).mean if self.frames else features
        return seen, self.reward(features).mean

    def turn(self, steps: int) -> float:
        """Return the env steps a second over so many vector steps."""
        start = time.perf_counter()
        for at in range(steps):
            self.step(at)
        return steps * self.num_envs / (time.perf_counter() - start)


class Singly:
    """E envs of one dream each, stepped one after another in numpy, as its env classes work."""

    def __init__(self, num_envs: int, num_actions: int) -> None:
        self.envs = [Dreams(1, True, num_actions)] * num_envs  # one model, as it would be shared

    def turn(self, steps: int) -> float:
        """Return the env steps a second over so many steps of all envs."""
        start = time.perf_counter()
        for at in range(steps):
            for env in self.envs:
                seen, reward = env.step(at)
                seen.numpy(), float(reward)
        return steps * len(self.envs) / (time.perf_counter() - start)


def steps_for(player: Any, seconds: float) -> int:
    """Warm up, and return the vector steps that fill about so many seconds."""
    steps, taken = 1, 0.0
    player.turn(1)
    while taken < seconds / 4:
        start = time.perf_counter()
        player.turn(steps)
        taken = time.perf_counter() - start
        steps *= 2
    return max(2, round(steps / 2 * seconds / taken))


def main() -> None:
    """Answer questions until there are no more."""
    settings = json.loads(sys.stdin.readline())
    try:
        import world_models.vision.dreamer_decoder  # noqa: F401
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    envs, actions = settings["num_envs"], settings["num_actions"]
    players = {
        "rgb": Dreams(envs, True, actions),
        "latent": Dreams(envs, False, actions),
        "rgb, one at a time": Singly(envs, actions),
    }
    steps = {name: steps_for(player, settings["seconds"]) for name, player in players.items()}
    made = {
        "version": importlib.metadata.version("torchwm"),
        "torch": torch.__version__,
        "parameters": players["rgb"].parameters,
        "steps": steps,
    }
    print(json.dumps(made), flush=True)
    for line in sys.stdin:
        name = json.loads(line)
        print(json.dumps(players[name].turn(steps[name])), flush=True)


if __name__ == "__main__":
    main()
