"""The numbers of a model.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.prediction.document import Architecture
from loopline.prediction.errors import ModelUnusable

Weights = Mapping[str, NDArray[Any]]
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
NEEDS = 'Reading model.safetensors needs the package safetensors: pip install "loopline[predict]".'


def read(folder: Path, architecture: Architecture) -> Weights:
    """The weights by the names that torch gives them. Raises ModelUnusable if they are not those of the network."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ModelUnusable(NEEDS) from None
    path = folder / "model.safetensors"
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnusable(f"{path} cannot be read: {error}") from error
    _check(path, found, architecture)
    return {name: np.ascontiguousarray(found[name], np.float32) for name in shapes(architecture)}


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of each array of weights."""
    found: dict[str, tuple[int, ...]] = {f"embeddings.{place}.weight": each for place, each in enumerate(a.embeddings)}
    rows = GATES[a.cell] * a.hidden_size
    for layer in range(a.num_layers):
        for suffix in ("", "_reverse") if a.bidirectional else ("",):
            end = f"l{layer}{suffix}"
            found |= {
                f"rnn.weight_ih_{end}": (rows, a.width if layer else a.read_size),
                f"rnn.weight_hh_{end}": (rows, a.hidden_size),
                f"rnn.bias_ih_{end}": (rows,),
                f"rnn.bias_hh_{end}": (rows,),
            }
    if a.pooling == "attention":
        found |= {"attention.weight": (1, a.width), "attention.bias": (1,)}
    if a.batch_norm:
        found |= {f"norm.{name}": (a.width,) for name in ("weight", "bias", "running_mean", "running_var")}
    return found | {"head.weight": (a.output_size, a.width + a.static_size), "head.bias": (a.output_size,)}


def _check(path: Path, found: Mapping[str, NDArray[Any]], architecture: Architecture) -> None:
    wanted = shapes(architecture)
    extra = set(found) - set(wanted) - {"norm.num_batches_tracked"}
    wrong = [name for name, shape in wanted.items() if name not in found or found[name].shape != shape]
    if wrong or extra:
        name = (wrong or sorted(extra))[0]
        raise ModelUnusable(f"{path} does not fit model.json ({name}): download the model again.")
