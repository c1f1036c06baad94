"""What model.json says of where a model comes from: the data that it was trained on, and what it was made with."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch
from loopline.version import VERSION
from numpy.typing import NDArray

from services.training.files.npz import Arrays


def of_data(arrays: Arrays, lengths: NDArray[np.int64] | None) -> dict[str, Any]:
    """What whoever predicts needs to know of the data set. `lengths` are those of the samples of training, if they
    matter."""
    return {
        "schema": None if arrays.schema is None else arrays.schema.document(),
        "targets": list(arrays.targets),
        "lengths": None if lengths is None else {"shortest": int(lengths.min()), "longest": int(lengths.max())},
    }


def of_tools(device: torch.device, engine: str) -> dict[str, Any]:
    """The versions of what computed the weights. With the spec, its seed, and the data, they say how to train the same
    model again."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "loopline": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "numpy": np.__version__,
        "device": f"{device} ({name})",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "engine": engine,
    }
