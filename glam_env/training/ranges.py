"""Ranges of the settings of a training run, by their names."""

from __future__ import annotations

_AMOUNT, _SHARE, _POSITIVE = "[0, inf)", "[0, 1]", "(0, inf)"
_COUNT, _UPDATES, _SIZE = "[1, 1000000000]", "[0, 1000000000]", "[1, 1000000]"

_MARGIN = "[0, 64]"  # pixels, of 64
MOST_SHARES = 100

RANGES = {
    **dict.fromkeys(
        [
            "total_steps",
            "random_steps",
            "replay_capacity",
            "update_every",
            "model_updates",
            "agent_updates",
            "log_every",
            "checkpoint_every",
        ],
        _COUNT,
    ),
    **dict.fromkeys(("batch", "length", "context", "image_batch", "imagination_batch"), _SIZE),
    **dict.fromkeys(("image_warmup", "model_warmup"), _UPDATES),
    **dict.fromkeys(("target_error", "image_learning_rate"), _AMOUNT),
    "num_envs": "[1, 10000]",
    "noop_max": "[0, 10000]",
    **dict.fromkeys(("learning_rate", "final_learning_rate", "gradient_clip"), _POSITIVE),
    "seed": "[0, 9223372036854775807]",
    "decay_from": _SHARE,
    "keep_every": _SHARE,
    "repeat_action_probability": "[0, 1)",
}
HORIZON_RANGES = {"initial": _SIZE, "increase": _UPDATES, "every": _COUNT, "maximum": _SIZE}
FREEZE_RANGES = {
    **dict.fromkeys(("finetune", "adapt", "end_to_end"), _UPDATES),
    **dict.fromkeys(("latent_batch", "latent_length"), _SIZE),
    "margin": _MARGIN,
    "margin_weight": _POSITIVE,
    **dict.fromkeys(
        ("empty_weight", "image_entropy", "foreground_weight", "representation", "focus"), _AMOUNT
    ),
    **dict.fromkeys(("decay_from", "margin_from"), _SHARE),
}
LOSS_RANGES = {
    **dict.fromkeys(
        [
            "dynamics",
            "representation",
            "variation",
            "free_nats",
            "variation_free_nats",
            "latent_gradient",
            "reward_weight",
            "empty_weight",
            "image_entropy",
            "focus",
        ],
        _AMOUNT,
    ),
    **dict.fromkeys(("foreground_weight", "margin_weight", "image_temperature"), _POSITIVE),
    "foreground_threshold": _SHARE,
    **dict.fromkeys(("rare_share", "frame_share", "diversity"), _SHARE),
    "margin": _MARGIN,
    "decode_fraction": "(0, 1]",
}
