"""Tables, and models that are trained on them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loopline import load
from loopline.prediction.loading import TrainedModel

from services.training.files import reading
from services.training.files.npz import Limits
from tests.client.prediction.cases import Case, Trained

Columns = dict[str, list[Any]]
QUICK = {"training": {"epochs": 1}}


def walks(sequences: int = 24, *, seed: int = 0) -> Columns:
    """Steps of walks with a place, a mode, gaps and an owner."""
    rng = np.random.default_rng(seed)
    found: Columns = {name: [] for name in ("walk", "second", "speed", "mode", "weight", "activity")}
    for walk in range(sequences):
        for second in range(int(rng.integers(3, 9))):
            found["walk"].append(f"w{walk:02d}")
            found["second"].append(second)
            found["speed"].append(None if rng.random() < 0.1 else float(rng.normal(walk % 2, 0.5)))
            found["mode"].append(str(rng.choice(["flat", "stairs", "up"])))
            found["weight"].append(50.0 + walk)
            found["activity"].append(["walk", "run"][walk % 2])
    return found


def written(columns: Mapping[str, Sequence[Any]], path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows(["" if cell is None else cell for cell in row] for row in zip(*columns.values(), strict=True))
    return path


def without(columns: Columns, *names: str) -> Columns:
    return {name: values for name, values in columns.items() if name not in names}


def from_file(path: Path, folder: Path, schema: Mapping[str, Any], **changes: Any) -> tuple[Trained, TrainedModel]:
    """A model that was trained on a file."""
    arrays = reading.read(path, Limits(max_bytes=1 << 30, plain_labels=False), schema)
    case = Trained.of_case(Case(lambda: arrays, {**QUICK, **changes}), folder)
    return case, load(folder)


def of_walks(folder: Path) -> tuple[Trained, TrainedModel]:
    """A model of `walks`, which asks for every kind of column."""
    schema = {"group": ["walk"], "order": "second", "static": ["weight"], "target": ["activity"]}
    data = {"missing": "forward", "scaling": "standard"}
    return from_file(written(walks(), folder / "walks.csv"), folder / "model", schema, data=data)
