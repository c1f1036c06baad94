"""Chose the settings of vowels.yaml: `python examples/tune_vowels.py` from the project's folder: twenty minutes.

Every candidate is trained on five different draws of 189 of the 270 training utterances and judged on the 81 left out
each time. The 370 test utterances are dropped before the first line of it runs, so nothing here can look at them.
The table it prints is kept beside it, in tune_vowels.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from services.training import run  # noqa: E402
from services.training.data import prepare  # noqa: E402
from services.training.files import npz  # noqa: E402
from services.training.files.npz import Arrays  # noqa: E402
from services.training.loop import Run, evaluate, fit  # noqa: E402
from services.training.spec import check_data, parse  # noqa: E402

FOLDS = 5
BASE: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 128, "bidirectional": True},
    "training": {
        "epochs": 60,
        "batch_size": 16,
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
        "lr_schedule": {"name": "cosine", "warmup_steps": 20},
    },
}
CHOICES: dict[str, list[Any]] = {  # tried one after another, the best of each kept for the next
    "data.scaling": ["none", "standard", "minmax"],
    "architecture.pooling": ["last", "final", "mean", "max", "attention"],
    "architecture.head_dropout": [0.0, 0.3, 0.5],
    "training.loss.label_smoothing": [0.0, 0.1],
    "architecture.cell": ["gru", "lstm"],
    "training.optimizer.lr": [1e-3, 2e-3, 5e-3],
    "architecture.num_layers+dropout": [(1, 0.0), (2, 0.3)],
    "architecture.hidden_size": [64, 128, 192],
}


def training_rows() -> Arrays:
    """The 270 training utterances, as if there were no others."""
    arrays = npz.read(ROOT / "data" / "japanese-vowels.npz")
    assert arrays.split is not None
    rows = arrays.split == 0
    return replace(arrays, x=arrays.x[rows], lengths=arrays.lengths[rows], y=arrays.y[rows], split=None)


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    if path == "architecture.num_layers+dropout":
        return changed(changed(document, "architecture.num_layers", value[0]), "architecture.dropout", value[1])
    first, _, rest = path.partition(".")
    return {**document, first: changed(document.get(first, {}), rest, value) if rest else value}


def judge(arrays: Arrays, document: dict[str, Any]) -> tuple[float, float, float]:
    """Mean loss and accuracy on the utterances left out, at the end of training, and the seconds of one training."""
    losses, accuracies, began = [], [], time.perf_counter()
    for fold in range(FOLDS):
        data = {
            **document.get("data", {}),
            "dataset": "vowels",
            "split": {"validation": 0.3, "test": 0.0, "seed": fold},
        }
        training = {**document["training"], "seed": 100 + fold}
        spec = check_data(parse({**document, "training": training, "data": data}), npz.summarise(arrays))
        prepared = prepare(arrays, spec)
        assert prepared.validation is not None
        left_out, prepared = prepared.validation, replace(prepared, validation=None)
        trained = Run(spec, prepared)
        for _ in fit(trained):
            pass
        scores = evaluate(trained, left_out)
        losses.append(scores["loss"] or 0.0)
        accuracies.append(scores["accuracy"] or 0.0)
    return statistics.mean(losses), statistics.mean(accuracies), (time.perf_counter() - began) / FOLDS


def main() -> None:
    run.prepare_process()
    arrays = training_rows()
    best = BASE
    print("| setting | accuracy left out | loss left out | seconds | |\n| --- | --- | --- | --- | --- |")
    for path, values in CHOICES.items():
        found = []
        for value in values:
            loss, accuracy, seconds = judge(arrays, changed(best, path, value))
            found.append((accuracy, -loss, value))
            print(f"| {path} = {value} | {accuracy:.4f} | {loss:.4f} | {seconds:.1f} | |", flush=True)
        chosen = max(found, key=lambda row: row[:2])[2]
        best = changed(best, path, chosen)
        print(f"| **{path} = {chosen}** | | | | kept |", flush=True)
    print(f"\nChosen: `{best}`")


if __name__ == "__main__":
    main()
