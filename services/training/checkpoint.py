"""Checkpoints: everything a run needs to go on exactly, saved whole or not at all.

A checkpoint is two files, named by the number of updates made:

    checkpoint-000000120.safetensors   weights, best weights, optimizer state, random states, the epoch under way
    checkpoint-000000120.json          position, schedule, stopping, scaler, what it takes to use the weights; and the
                                       hashes of both, and of the epochs so far

The epochs so far are in a third file, which all checkpoints share (`epochs.py`). The JSON is renamed into place last,
so where it stands the others stand beside it. No pickle anywhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loopline.preprocessing.scaling import UNSCALED
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as serialise
from torch import Tensor

from services import faults
from services.errors import CheckpointCorrupt
from services.training import epochs, provenance
from services.training.card import names
from services.training.engine.choice import continued
from services.training.loop import Epoch, Run
from services.training.messages import File
from services.training.spec.fields import Data

FORMAT = 1
NAME = re.compile(r"^checkpoint-(\d{9,})\.json$")
HALF = re.compile(
    rf"^((checkpoint-\d{{9,}}|model|history)\.(json|safetensors|onnx)|{'|'.join(map(re.escape, names.NAMES))})\.part$"
)


RESERVE = 16 << 20
"""Bytes that a checkpoint leaves free: for the files of the result, and for others on the same disk."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NoRoom(OSError):
    """The disk is full, or a quota or the size of a file is at its bound; `errno` is ENOSPC for all of them."""

    def __init__(self, needed: int, free: int, what: str | None = None) -> None:
        what = what or os.strerror(errno.ENOSPC)
        super().__init__(errno.ENOSPC, f"{what}: {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free")
        self.needed, self.free = needed, free


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it lies on disk: at which update of which epoch, and its files."""

    step: int
    epoch: int
    best: bool
    files: tuple[File, File]


def save(run: Run, directory: Path) -> Saved:
    """Writes a checkpoint of the run, between two updates.

    Raises NoRoom where the disk is full, or would be but for RESERVE, and another OSError where it refuses otherwise;
    the checkpoints before are untouched then, and nothing of this one is left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"checkpoint-{run.state.step:09d}.json"
    tensors, state = state_of(run)
    data = serialise(tensors)
    tensors_sha256 = hashlib.sha256(data).hexdigest()
    _check_room(directory, len(data) + RESERVE)
    history = _append_epochs(run, directory)
    faults.point("checkpoint.epochs_written")
    body = {
        "format": FORMAT,
        "spec_sha256": spec_hash(run),
        "data_sha256": run.data.sha256,
        "tensors_sha256": tensors_sha256,
        "model": card(run),
        "history": history,
        "state": state,
    }
    if (fold := run.fold.document()) is not None:
        body["fold"] = fold
    body["sha256"] = _hash_of(body)
    text = json.dumps(body, allow_nan=False).encode()
    there_was_one = path.exists()  # of this very update, from before the run was built again
    try:
        weights = write_atomically(path.with_suffix(".safetensors"), data, tensors_sha256)
        faults.point("checkpoint.tensors_written")
        record = write_atomically(path, text)
    except OSError:
        if not (there_was_one and _is_whole(path)):
            delete(directory, run.state.step)
        raise
    faults.point("checkpoint.written")
    best = run.state.best is not None and run.state.best.epoch == run.state.epoch and run.state.steps_in_epoch == 0
    return Saved(run.state.step, run.epochs_made, best, (record, weights))


def _append_epochs(run: Run, directory: Path) -> dict[str, Any]:
    try:
        run.state.written = epochs.append(directory, [*run.fold.records, *run.state.history], run.state.written)
    except OSError as error:
        run.state.written = None
        if error.errno in FULL:
            raise NoRoom(0, shutil.disk_usage(directory).free, error.strerror) from error
        raise
    return run.state.written.document()


def _check_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise NoRoom(needed, free)


def _is_whole(path: Path) -> bool:
    try:
        data = path.with_suffix(".safetensors").read_bytes()
        return bool(hashlib.sha256(data).hexdigest() == read(path)["tensors_sha256"])
    except (OSError, CheckpointCorrupt):
        return False


def load_into(run: Run, path: Path) -> None:
    """Puts a fresh Run of the same spec where the checkpoint's was. `path` is that of the JSON file.

    Raises CheckpointCorrupt when a file is missing, damaged, or of another spec or other data.
    """
    body = read(path)
    if body["spec_sha256"] != spec_hash(run):
        raise CheckpointCorrupt(f"{path.name} belongs to another spec.")
    if body.get("fold") != run.fold.document():
        raise CheckpointCorrupt(f"{path.name} belongs to another fold.")
    digests = body.get("data_sha256"), run.data.sha256  # a version before this was written down left it out
    if None not in digests and digests[0] != digests[1]:
        raise CheckpointCorrupt(f"{path.name} belongs to other data.")
    target_scaling = body["model"].get("target_scaling", UNSCALED.document())
    if target_scaling != run.data.target_scaling.document():
        raise CheckpointCorrupt(f"{path.name} belongs to targets that were scaled otherwise.")
    if body["model"]["scaling"] != run.data.scaling.document():  # that of a model that this run does not begin with
        raise CheckpointCorrupt(f"{path.name} belongs to data that was scaled otherwise.")
    if any(body["model"].get(name) != card(run).get(name) for name in ("preprocessing", "forecast")):
        raise CheckpointCorrupt(f"{path.name} belongs to data that was prepared otherwise.")
    try:
        data = path.with_suffix(".safetensors").read_bytes()
    except OSError as error:
        raise CheckpointCorrupt(f"The tensors of {path.name} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != body["tensors_sha256"]:
        raise CheckpointCorrupt(f"The tensors of {path.name} are damaged: their hash is another than was written.")
    try:
        history = epochs.load(path.parent, body["history"])[len(run.fold.records) :] if "history" in body else None
        tensors = load(data)
        restore(run, tensors, _meant(body["state"]), history)
        began = body["model"].get("made_with", {}).get("engine")
        run.compute_with(continued(run.training, run.engine, began))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointCorrupt(f"{path.name} cannot be understood: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint, its own hash checked. Raises CheckpointCorrupt."""
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        expected = body.pop("sha256")
        whole = body["format"] == FORMAT and expected == _hash_of(body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"{path.name} cannot be read: {error}") from error
    if not whole:
        raise CheckpointCorrupt(f"{path.name} is damaged: its hash is another than was written.")
    return body


def newest_first(directory: Path) -> list[Path]:
    """The checkpoints of a directory, the furthest on first."""
    found = (path for path in directory.glob("checkpoint-*.json") if NAME.match(path.name))
    return sorted(found, key=step_of, reverse=True)


def resume(run: Run, directory: Path, *, at_most: int | None = None) -> Path | None:
    """Goes on from the newest checkpoint that is whole; returns its path, or None where there is none.

    A damaged one is passed over, and the one before it serves. The keeper of the records has not heard of those after
    update `at_most`: going on from there would leave a gap in its curves, so they are passed over too.
    """
    found = newest_first(directory)
    for path in [path for path in found if at_most is None or step_of(path) <= at_most]:
        try:
            load_into(run, path)
        except CheckpointCorrupt:
            continue
        return path
    return None


def discard_after(directory: Path, step: int) -> None:
    """Removes the checkpoints that lie beyond an update: they belong to a past that is about to be lived again.

    And what a process that was killed had only half written.
    """
    for path in newest_first(directory):
        if step_of(path) > step:
            delete(directory, step_of(path))
    for path in directory.glob("checkpoint-*.safetensors"):
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)
    for path in directory.glob("*.part"):
        if HALF.match(path.name):
            path.unlink(missing_ok=True)
    if not newest_first(directory):  # nobody counts on their epochs
        for path in directory.glob(epochs.NAME):
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The number of updates after which the checkpoint at this path was taken."""
    return int(path.stem.removeprefix("checkpoint-"))


def delete(directory: Path, step: int) -> None:
    """Removes a checkpoint, its JSON first, so that no half of one is ever taken for a whole."""
    for suffix in (".json", ".safetensors"):
        (directory / f"checkpoint-{step:09d}{suffix}").unlink(missing_ok=True)


def superfluous(saved: list[Saved], keep_last: int) -> list[Saved]:
    """Those that need not be kept: all but the last `keep_last` and the newest taken at the best epoch."""
    kept = {s.step for s in saved[-keep_last:]}
    kept |= {s.step for s in [s for s in saved if s.best][-1:]}
    return [s for s in saved if s.step not in kept]


def state_of(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of the run that changes while it trains, as tensors and as JSON, less its history."""
    optimizer = run.optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif value is not None:
                plain.setdefault(str(index), {})[key] = value
    tensors |= run.state.tensors()
    tensors["random.cpu"] = torch.get_rng_state()
    if run.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(run.device)
    state = {
        **run.state.document(),
        "scaler": run.scaler.state_dict() if run.scaler else None,
        "optimizer": {"state": plain, "lr": optimizer["param_groups"][0]["lr"]},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, _told(state)


def restore(
    run: Run, tensors: Mapping[str, Tensor], state: Mapping[str, Any], history: list[Epoch] | None = None
) -> None:
    """Undoes `state_of`. An older version's state has the history in it.

    Raises KeyError, ValueError or RuntimeError where the state does not fit the run.
    """
    run.model.load_state_dict(_under("model.", tensors))
    entries: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in state["optimizer"]["state"].items()}
    for name, tensor in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    optimizer = run.optimizer.state_dict()
    run.optimizer.load_state_dict({"state": entries, "param_groups": optimizer["param_groups"]})
    run.begin_momentum()  # a checkpoint from before the first update may have none
    if history is None:
        history = [epochs.finite(record) for record in state.get("history", [])]
    run.state = run.state.loaded(state, tensors, history, run.device)
    if run.scaler:
        run.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and run.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], run.device)


ADDED_TO_SPLIT = {"train_on_validation": False, "evaluate_test": True}
"""What splits of older versions had without saying it."""
ADDED_TO_DATA = (
    *("max_length", "cut", "stride", "missing", "missing_mask", "differences", "categories", "embedding_size"),
    *("scaling_over", "patch", "text"),
)
"""Fields of a spec's `data` that older versions did not know; they did what the defaults say."""


def spec_hash(run: Run) -> str:
    """What of a spec a checkpoint depends on: the network, its training and its data; not names, limits or places."""
    return _hash_of(essence(run.spec.document()))


def essence(document: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a spec that a checkpoint depends on.

    Which engine computes is none: it changes a rounding, as the number of threads does.
    How long to train is one only where the learning rate follows it: else a run may be resumed to train for longer.
    What is left out of a spec and was unknown to the version that wrote a checkpoint is none either.
    """
    parts = {key: dict(document[key]) for key in ("architecture", "training", "data")}
    parts["training"].pop("engine", None)
    task = document.get("task")
    if isinstance(task, Mapping) and len(task) > 1:  # a name alone says what the data set says too
        parts["task"] = {key: value for key, value in task.items() if (key, value) != ("calendar", "none")}
    if parts["training"]["lr_schedule"]["name"] in ("constant", "step", "plateau"):
        parts["training"].pop("epochs")
    if parts["training"].get("on_divergence") is None:
        parts["training"].pop("on_divergence", None)
    if parts["training"].get("bptt_steps") is None:
        parts["training"].pop("bptt_steps", None)
    if parts["training"].get("keep") == "best":
        parts["training"].pop("keep")
    split = {key: value for key, value in parts["data"]["split"].items() if (key, value) not in ADDED_TO_SPLIT.items()}
    if split.get("method") == "random":
        split = {key: value for key, value in split.items() if key != "method"}
    split = {key: value for key, value in split.items() if key not in ("by", "folds") or value is not None}
    parts["data"]["split"] = split
    if parts["data"].get("target_scaling") == "none":
        parts["data"].pop("target_scaling")
    for name in ADDED_TO_DATA:
        if parts["data"].get(name) == Data.model_fields[name].default:
            parts["data"].pop(name, None)
    if parts["data"].get("schema") is None:
        parts["data"].pop("schema", None)
    loss = parts["training"].get("loss")
    if isinstance(loss, Mapping) and loss.get("pos_weight") is None:
        parts["training"]["loss"] = {key: value for key, value in loss.items() if key != "pos_weight"}
    return parts


def card(run: Run) -> dict[str, Any]:
    """What one needs beside the weights to use them: how to build the network, and what to do to its input
    and to its output. Without `preprocessing`, scaling is all that is done to the input."""
    prepared = run.data.preprocessing
    says_more = not prepared.is_plain or any(not each.name.isdigit() for each in prepared.steps.features)
    return {
        "task": run.data.task.name,
        "spec": run.spec.document(),
        "input_size": run.data.input_size,
        "output_size": run.data.output_size,
        "classes": run.data.classes,
        "scaling": run.data.scaling.document(),
        "target_scaling": run.data.target_scaling.document(),
        **({"preprocessing": prepared.document(), "static_size": run.data.static_size} if says_more else {}),
        **run.data.card(),
        "precision_of_layers": run.precision_of_layers,
        "data": {"sha256": run.data.sha256, **run.data.about},
        "made_with": provenance.of_tools(run.device, run.engine.name),
    }


def write_atomically(path: Path, data: bytes, sha256: str | None = None) -> File:
    """Writes a file whole or not at all: a temporary name, fsync, rename, fsync of the directory.

    `sha256` spares hashing where it is known. Raises NoRoom or another OSError; only where the directory could not be
    synced does the file stand there then.
    """
    _replace(path, data)
    _sync(path.parent)
    return File(path.name, len(data), sha256 or hashlib.sha256(data).hexdigest())


def write_together(directory: Path, contents: Mapping[str, bytes]) -> tuple[File, ...]:
    """Writes several files, each whole or not at all, and syncs the directory once. Raises as `write_atomically`; some
    of the files may stand there then."""
    for name, data in contents.items():
        _replace(directory / name, data)
    _sync(directory)
    return tuple(File(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items())


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise NoRoom(len(data), shutil.disk_usage(path.parent).free, error.strerror) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> File:
    """Writes a safetensors file whole or not at all."""
    return write_atomically(path, serialise(tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _hash_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _told(value: Any) -> Any:
    """The same with words for the numbers that JSON has not: a validation loss may be one of them."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _meant(value: Any) -> Any:
    """Undoes `_told`."""
    if isinstance(value, dict):
        return {key: _meant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_meant(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
