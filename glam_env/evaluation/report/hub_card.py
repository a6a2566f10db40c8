"""The card of a checkpoint on the Hugging Face Hub.

It has the Hub's metadata, then ``CARD.md``, then how to use the checkpoint.
"""

from __future__ import annotations

import re

from glam_env.checkpoint.config import CheckpointConfig
from glam_env.errors import GlamError
from glam_env.evaluation.examine import Examination
from glam_env.evaluation.play.scores import play_of, stored_scores
from glam_env.evaluation.report.card import write_card
from glam_env.files import shown

LIBRARY, TASK = "glam-env", "reinforcement-learning"
TAGS = ("world-model", "model-based-rl", "reinforcement-learning", "atari", "gymnasium", "glam")


def write_hub_card(config: CheckpointConfig, name: str, license: str | None) -> str:
    """Write the card of a checkpoint's repository.

    Args:
        config: Config of the checkpoint. Its scores and thresholds become the model index.
        name: ``owner/name`` of the repository.
        license: The Hub's identifier of the weights' licence, such as ``"mit"``.

    Raises:
        GlamError: There is no licence, or huggingface_hub is not installed.
    """
    if not license:
        raise GlamError("the card has no licence: choose one for the weights by --license, say mit")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise GlamError(
            f"{shown(license)} is no identifier of a licence on the Hub: write mit, apache-2.0 or "
            "another one of hf.co/docs/hub/repositories-licenses"
        )
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ModuleNotFoundError as error:
        raise GlamError('`glam push` needs huggingface_hub: pip install "glam-env[hub]"') from error

    def result(config_name: str, about: str, kind: str, title: str, value: float) -> EvalResult:
        return EvalResult(
            task_type=TASK,
            task_name="Reinforcement learning",
            dataset_type=f"GLAMReal-{config.game}-v0",
            dataset_name=f"{config.game}, {about}",
            dataset_config=config_name,  # results of one config are listed together
            metric_type=kind,
            metric_name=title,
            metric_value=value,
        )

    results = []
    for score in stored_scores(config.results):
        play = play_of(score)
        title = f"mean score of {score['episodes']} whole games"
        results.append(
            result(play.protocol or str(play), str(play), "mean_reward", title, score["mean"])
        )
    if fidelity := config.results.get("fidelity"):
        for check in Examination.from_json(fidelity, "results.fidelity").checks:
            if check.figure is not None:
                about = ("held-out", "held-out play", "fidelity", check.name)
                results.append(result(*about, check.figure))
    data = ModelCardData(
        model_name=name.split("/")[-1] if results else None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        license=license,
        tags=[*TAGS, config.game],
        eval_results=results or None,
    )
    use = f"""\
A learned {config.game} as a Gymnasium environment: a GLAM world model, and an agent that learned in
its dreams.

```python
import gymnasium as gym, glam_env

env = gym.make("GLAMDream-{config.game}-v0", checkpoint="hf://{name}")
```

`glam play hf://{name}` plays it in a window, `glam eval hf://{name}` scores its agent.
"""
    return f"---\n{data.to_yaml()}\n---\n\n{write_card(config)}\n## Use\n\n{use}"
