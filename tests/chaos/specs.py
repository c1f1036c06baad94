"""The small networks that are trained in chaos: every cell, and all that a checkpoint has to carry over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.training.spec.fields import Limits

VOWELS = "vowels"
SEEDS = (1, 2)
STALL_SECONDS = 20
"""Above the start of a trainer on a busy machine, below the longest freeze."""

_SYNTHETIC = {"samples": 160, "length": 12, "features": 4, "classes": 3}
_FAMILY: dict[str, dict[str, Any]] = {
    "gru-dropout-cosine": {
        "architecture": {"cell": "gru", "hidden_size": 12, "num_layers": 2, "dropout": 0.3, "pooling": "attention"},
        "training": {"epochs": 40, "batch_size": 16, "lr_schedule": {"name": "cosine", "warmup_steps": 20}},
        "data": {"synthetic": _SYNTHETIC},
        "checkpoints": {"every_steps": 15, "keep_last": 3},
    },
    "lstm-plateau-batch-norm": {
        "architecture": {"cell": "lstm", "hidden_size": 10, "bidirectional": True, "batch_norm": True},
        "training": {
            "epochs": 34,
            "batch_size": 32,
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
            "lr_schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
        },
        "data": {"dataset": VOWELS},
        "checkpoints": {"every_steps": 20},
    },
    "rnn-relu-accumulated": {
        "architecture": {"cell": "rnn", "nonlinearity": "relu", "init": "identity", "hidden_size": 16},
        "training": {
            "epochs": 50,
            "batch_size": 8,
            "accumulation_steps": 2,
            "optimizer": {"name": "rmsprop", "lr": 0.003, "momentum": 0.5},
            "lr_schedule": {"name": "step", "step_size": 9, "gamma": 0.5},
            "max_grad_value": 0.1,
        },
        "data": {"synthetic": {**_SYNTHETIC, "length": 20}},
        "checkpoints": {"every_steps": 25, "every_epochs": 7},
    },
    "gru-early-stopping": {
        "architecture": {"cell": "gru", "hidden_size": 8, "pooling": "mean", "head_dropout": 0.2},
        "training": {
            "epochs": 90,
            "batch_size": 16,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "early_stopping": {"patience": 30},
            "best_by": "accuracy",
        },
        "data": {"synthetic": {**_SYNTHETIC, "samples": 120}, "split": {"validation": 0.25, "test": 0.1}},
        "checkpoints": {"every_steps": 10, "keep_last": 2},
    },
    "gru-folds": {
        "architecture": {"cell": "gru", "hidden_size": 8, "pooling": "mean", "head_dropout": 0.2},
        "training": {"epochs": 14, "batch_size": 16, "early_stopping": {"patience": 4}},
        "data": {"synthetic": _SYNTHETIC, "split": {"test": 0.15, "folds": 3}, "scaling": "standard"},
        "checkpoints": {"every_steps": 12, "keep_last": 2},
    },
    "lstm-one-cycle-vowels": {
        "architecture": {"cell": "lstm", "hidden_size": 12, "num_layers": 2, "dropout": 0.2, "forget_gate_bias": 1.0},
        "training": {
            "epochs": 36,
            "batch_size": 24,
            "lr_schedule": {"name": "one_cycle"},
            "loss": {"name": "cross_entropy", "class_weights": "balanced", "label_smoothing": 0.05},
        },
        "data": {"dataset": VOWELS, "scaling": "standard"},
        "checkpoints": {"every_epochs": 2},
    },
    "rnn-deep-max": {
        "architecture": {
            "cell": "rnn",
            "hidden_size": 8,
            "num_layers": 3,
            "dropout": 0.1,
            "bidirectional": True,
            "pooling": "max",
            "batch_norm": True,
            "init": "orthogonal",
        },
        "training": {"epochs": 45, "batch_size": 16, "max_grad_norm": 0.5},
        "data": {"synthetic": _SYNTHETIC, "scaling": "minmax"},
        "checkpoints": {"every_steps": 30, "keep_last": 1},
    },
}

NAMES = tuple(_FAMILY)

_SHORT: dict[str, dict[str, Any]] = {
    "gru-short": {
        "architecture": {"cell": "gru", "hidden_size": 6, "dropout": 0.1, "num_layers": 2},
        "training": {"epochs": 8, "batch_size": 16},
        "data": {"synthetic": {**_SYNTHETIC, "samples": 96}},
        "checkpoints": {"every_steps": 9},
    },
    "lstm-short": {
        "architecture": {"cell": "lstm", "hidden_size": 6, "pooling": "max"},
        "training": {"epochs": 6, "batch_size": 24, "lr_schedule": {"name": "cosine"}},
        "data": {"dataset": VOWELS},
        "checkpoints": {"every_steps": 11},
    },
}
"""What batches and schedules submit."""

SHORT = tuple(_SHORT)

PRIORITY = 10
"""Of trials, retrainings and what a schedule submits: each of them waits for the one before."""

_TRIAL: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 8, "num_layers": 2, "pooling": "max"},
    "data": {"synthetic": {**_SYNTHETIC, "samples": 120}},
    "checkpoints": {"every_steps": 5, "keep_last": 2},
}
_SEARCHES: dict[str, dict[str, Any]] = {
    # After ten trials at random each suggestion depends on all results before it, and each rung on all values there.
    "tpe": {
        **_TRIAL,
        "training": {"epochs": 9, "batch_size": 16, "seed": 3},
        "search": {
            "space": {
                "training.optimizer.lr": {"low": 1e-4, "high": 3e-1, "log": True},
                "architecture.hidden_size": {"low": 4, "high": 16},
                "architecture.cell": ["lstm", "gru"],
                "architecture.forget_gate_bias": {"values": [0.0, 1.0], "when": {"architecture.cell": ["lstm"]}},
            },
            "trials": 12,
            "parallel": 1,
            "stop_early": "asha",
            "seed": 5,
        },
    },
    # One layer with dropout between layers is refused: a trial that is no job.
    "random": {
        **_TRIAL,
        "training": {"epochs": 5, "batch_size": 16, "seed": 4},
        "search": {
            "algorithm": "random",
            "space": {
                "training.optimizer.lr": {"low": 1e-3, "high": 1e-1, "log": True},
                "architecture.num_layers": [1, 2],
                "architecture.dropout": [0.0, 0.2],
            },
            "trials": 5,
            "parallel": 2,
            "stop_early": None,
            "seed": 2,
        },
    },
}
SEARCHES = tuple(_SEARCHES)

_RETRAININGS: tuple[dict[str, Any], ...] = (
    {"epochs": 2, "seed": 1, "warm_start": None},
    {"epochs": 14, "seed": 2, "warm_start": "production"},
    {"epochs": 1, "seed": 3, "warm_start": None},
)
"""One after the other: the first has nothing to beat, the second is better, the third is worse."""

RETRAININGS = len(_RETRAININGS)


def document(name: str, seed: int, tags: Mapping[str, str]) -> dict[str, Any]:
    """The spec of this name as a client sends it."""
    spec = {**_FAMILY, **_SHORT}[name]
    training = {**spec["training"], "seed": seed}
    return _hardened({**spec, "training": training, "tags": {**tags, "spec": name, "seed": str(seed)}})


def short(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """The jobs of a batch."""
    return [document(name, seed, tags) for name, seed in zip(SHORT, SEEDS, strict=True)]


def search(kind: str, name: str) -> dict[str, Any]:
    """A search under this name."""
    return _hardened({**_SEARCHES[kind], "name": name, "priority": PRIORITY, "tags": {"group": name}})


def retraining(number: int, model: str) -> dict[str, Any]:
    """A job that makes a version of this model; they are numbered from 1."""
    chosen = _RETRAININGS[number - 1]
    return _hardened(
        {
            "architecture": {"cell": "gru", "hidden_size": 12, "pooling": "mean"},
            "training": {"epochs": chosen["epochs"], "batch_size": 24, "seed": chosen["seed"]},
            "data": {"dataset": VOWELS, "split": {"validation": 0.2, "test": "given"}, "scaling": "standard"},
            "checkpoints": {"every_steps": 7},
            "retrain": {"model": model, "warm_start": chosen["warm_start"]},
            "priority": PRIORITY,
            "tags": {"group": model, "key": f"{model}-{number}"},
        }
    )


def _hardened(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Failures that the nemesis makes are retried as often as it likes."""
    limits: dict[str, Any] = {"max_retries": 100}
    if "max_stall_seconds" in Limits.model_fields:
        limits["max_stall_seconds"] = STALL_SECONDS
    return {**spec, "checkpoints": {"every_seconds": None, **spec["checkpoints"]}, "limits": limits}
