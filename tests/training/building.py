"""What the tests of training build with: small specs, small data, runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences
from numpy.typing import NDArray
from torch import Tensor

from services.training import checkpoint, epochs, messages, run
from services.training.data import prepare
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Epoch, Run, fit
from services.training.spec import Spec, check_data, parse
from services.training.tasks import tags

TIMES = ("seconds", "samples_per_second")
"""What a record holds that no two runs have in common."""


def document(**changes: Any) -> dict[str, Any]:
    """A small spec; mappings among the changes are merged into it, at any depth but that of things with a name."""
    small = {
        "architecture": {"cell": "gru", "hidden_size": 5},
        "training": {"epochs": 3, "batch_size": 4, "optimizer": {"name": "adam", "lr": 0.01}},
        "data": {"dataset": "some.npz", "split": {"validation": 0.25}},
    }
    return _merged(small, changes)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict) and "name" not in value
        result[key] = _merged(below, value) if both else value
    return result


def classes(samples: int = 24, length: int = 6, features: int = 3, kinds: int = 3, seed: int = 1) -> Arrays:
    """Sequences of one length that can be told apart, a class each."""
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % kinds
    x = rng.standard_normal((samples, length, features)) + y[:, None, None]
    return Arrays(x=x.astype(np.float32), lengths=np.full(samples, length, np.int64), y=y.astype(np.int64))


def of_many_lengths(arrays: Arrays, least: int = 1, seed: int = 2) -> Arrays:
    """The same sequences cut to random lengths, zero after them; one keeps its whole length."""
    samples, length, _ = arrays.x.shape
    lengths = np.random.default_rng(seed).integers(least, length + 1, samples)
    lengths[0] = length
    x = np.where((np.arange(length) < lengths[:, None])[:, :, None], arrays.x, np.float32(0))
    return Arrays(x=x, lengths=lengths, y=arrays.y, split=arrays.split)


def values(samples: int = 24, length: int = 6, features: int = 3, columns: int = 2, seed: int = 1) -> Arrays:
    """Sequences and real numbers to tell from them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, length, features)).astype(np.float32)
    y = (x.mean(axis=1) @ rng.standard_normal((features, columns))).astype(np.float32)
    return Arrays(x=x, lengths=np.full(samples, length, np.int64), y=y)


def tagged(samples: int = 24, length: int = 7, kinds: int = 3, *, full: bool = False, seed: int = 3) -> Arrays:
    """Sequences whose tags can be read off their first feature, and padding that holds anything but tags."""
    rng = np.random.default_rng(seed)
    lengths = np.full(samples, length) if full else rng.integers(2, length + 1, samples)
    lengths[0] = length
    x = rng.standard_normal((samples, length, 2)).astype(np.float32)
    y = np.digitize(x[:, :, 0], np.linspace(-0.5, 0.5, kinds - 1))[:, :, None]
    behind = np.arange(length) >= lengths[:, None]
    x[behind], y[behind] = 0.0, tags.PADDING
    return Arrays(x=x, lengths=lengths, y=y)


def mixed(samples: int = 24, length: int = 7, *, gaps: bool = True, seed: int = 5) -> Arrays:
    """Sequences of many lengths with numbers, words and values of whole sequences, some of them missing."""
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % 2
    lengths = rng.integers(2, length + 1, samples)
    lengths[0] = length
    x = rng.standard_normal((samples, length, 4)) * (1.0, 5.0, 1.0, 0.3) + (0.0, 40.0, 0.0, -2.0)
    x[:, :, 0] += y[:, None]
    x[:, :, 2] = rng.integers(0, 3, (samples, length))
    static = np.stack((rng.normal(50.0, 9.0, samples), rng.integers(0, 2, samples)), axis=1)
    if gaps:
        x[rng.random(x.shape) < 0.15] = np.nan
        static[rng.random(static.shape) < 0.1] = np.nan
    x[np.arange(length) >= lengths[:, None]] = 0.0
    return Arrays(
        x=x.astype(np.float32),
        lengths=lengths,
        y=y,
        static=static,
        weights=rng.uniform(0.5, 3.0, samples),
        features=(Column("pulse"), Column("load"), Column("mode", "category", ("off", "on", "wait")), Column("drift")),
        static_columns=(Column("age"), Column("sex", "category", ("f", "m"))),
    )


def texts(samples: int = 40, *, seed: int = 7) -> Arrays:
    """Sentences of many lengths. One word in each says its class."""
    rng = np.random.default_rng(seed)
    said = [("Lovely", "great", "fine"), ("awful", "Poor", "cold")]
    common = ["the", "room", "was,", "and", "food!", "we", "found", "it", "Very", "quite"]
    found = []
    for row in range(samples):
        words = rng.choice(common, rng.integers(1, 12)).tolist()
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(said[row % 2])))
        found.append(" ".join(words))
    return of_texts(found, np.arange(samples) % 2)


def of_texts(found: Sequence[str], y: NDArray[Any], **more: Any) -> Arrays:
    """A data set of texts."""
    x = np.empty((len(found), 1, 0), np.float32)
    given = np.array([*found, None], np.object_)[:-1]
    return Arrays(x=x, lengths=np.ones(len(found), np.int64), y=y, texts=given, features=(), **more)


def flat(arrays: Arrays, values: NDArray[Any]) -> NDArray[Any]:
    """The valid steps, one sequence after the other."""
    return values[np.arange(values.shape[1]) < arrays.lengths[:, None]]


def as_sequences(arrays: Arrays, **more: Any) -> Sequences:
    """What a file with these data would become."""
    y, kinds = arrays.y, None
    target = "values"
    if arrays.y.dtype.kind in "iU":
        labels = flat(arrays, y)[:, 0] if y.ndim == 3 else y
        target = "tags" if y.ndim == 3 else "classes"
        kinds, y = np.unique(labels, return_inverse=True)
    elif y.ndim == 1:
        y = y[:, None]
    names = tuple(Column(f"f{number}") for number in range(arrays.x.shape[2]))
    found = None if kinds is None else tuple(kinds.tolist())
    given = {"features": arrays.features or names, "schema": Schema(), "y": y, "targets": target, "classes": found}
    columns = y.shape[1] if target == "values" else 1
    given |= {"ids": arrays.groups, "target_names": tuple(f"y{number}" for number in range(columns))}
    given |= {name: getattr(arrays, name) for name in ("static", "static_columns", "weights", "split")}
    return Sequences(flat(arrays, arrays.x), arrays.lengths, **(given | more))


def hourly(
    lengths: Sequence[int],
    *,
    known: tuple[str, ...] = (),
    timed: bool = True,
    gaps: bool = False,
    target: tuple[str, ...] = ("load",),
    seed: int = 4,
) -> Arrays:
    """Series of a load with a daily wave, a temperature and a wind; all of them end at the same hour."""
    rng = np.random.default_rng(seed)
    longest = max(lengths)
    x = rng.standard_normal((len(lengths), longest, 3)).cumsum(axis=1) * 0.1
    x[:, :, 0] += np.sin(np.arange(longest) * 2 * np.pi / 24) + 5.0
    if gaps:
        x[rng.random(x.shape) < 0.03] = np.nan
    counts = np.array(lengths, np.int64)
    x[np.arange(longest) >= counts[:, None]] = 0.0
    hours = (
        np.where(np.arange(longest) < counts[:, None], np.arange(longest) + (longest - counts)[:, None], 0)
        * 3_600_000_000_000
    )
    return Arrays(
        x=x.astype(np.float32),
        lengths=counts,
        y=np.empty((len(lengths), longest, 0), np.float32),
        groups=np.array(list("abcdefgh")[: len(lengths)]),
        ends=hours[np.arange(len(lengths)), counts - 1] if timed else None,
        features=(Column("load"), Column("heat"), Column("wind")),
        times=hours if timed else None,
        schema=Schema(group=("place",), order="hour", target=target, known_future=known),
        targets=target,
    )


def without_rows(arrays: Arrays, *places: int) -> Arrays:
    """Series of one length that lack the rows at these places."""
    kept = [name for name in ("x", "y", "times") if getattr(arrays, name) is not None]
    changed: dict[str, Any] = {name: np.delete(getattr(arrays, name), places, axis=1) for name in kept}
    return replace(arrays, lengths=arrays.lengths - len(places), **changed)


def forecast_spec(arrays: Arrays, **changes: Any) -> Spec:
    """A spec of a small forecast that has met its data."""
    small = {"task": {"name": "forecast", "lookback": 5, "horizon": 3}, "data": {"missing": "forward"}}
    asked = document(**_merged(small, changes))
    if "split" not in changes.get("data", {}):
        del asked["data"]["split"]
    return check_data(parse(asked), npz.summarise(arrays))


def spec_for(arrays: Arrays, **changes: Any) -> Spec:
    """A spec that has met its data."""
    return check_data(parse(document(**changes)), npz.summarise(arrays))


def make_run(arrays: Arrays | None = None, **changes: Any) -> Run:
    """A run that has not begun."""
    arrays = classes() if arrays is None else arrays
    spec = spec_for(arrays, **changes)
    return Run(spec, prepare(arrays, spec))


def trained(run: Run) -> list[Epoch]:
    """Trains to the end; the records."""
    return [epoch for epoch in fit(run) if epoch is not None]


def events(order: dict[str, Any], *more: Any, **named: Any) -> Iterator[dict[str, Any]]:
    """What a run reports, as JSON, for an order in JSON: as both go over the pipes of a trainer."""
    asked = messages.read_request({"request": "order", **order})
    assert isinstance(asked, messages.Order)
    for event in run.events(asked, *more, **named):
        yield messages.to_json(event)


def reports_of(run: Run) -> Tensor:
    """Trains to the end; (updates, 2): the loss and the gradient norm of each."""
    taken = []
    for epoch in fit(run):
        if epoch is not None:
            taken += run.take_reports()[1]
    return torch.tensor(taken, dtype=torch.float64)


def timeless(records: list[Epoch]) -> list[Epoch]:
    """The records without what the clock wrote into them."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def weights_of(run: Run) -> dict[str, Tensor]:
    """A copy of the weights as they stand."""
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def check_that_it_resumes_exactly(make: Callable[[], Run], folder: Path, *, after: int) -> Run:
    """Breaks a run off after so many updates and goes on from its checkpoint: the records and the weights have to be
    those of a run without a break. Returns the run that went on, at its end."""
    unbroken = make()
    expected = timeless(trained(unbroken))
    broken = make()
    for _ in islice(fit(broken), after):
        pass
    checkpoint.save(broken, folder)
    resumed = make()
    assert checkpoint.resume(resumed, folder) is not None
    assert (resumed.state.steps_in_epoch, resumed.state.epoch) == (broken.state.steps_in_epoch, broken.state.epoch)
    trained(resumed)
    assert timeless(resumed.state.history) == expected
    assert same(weights_of(resumed), weights_of(unbroken))
    return resumed


def names_in(directory: Path) -> set[str]:
    """The files of a folder, but for the epochs' that all checkpoints share (tests/training/test_epochs.py)."""
    return {path.name for path in directory.iterdir()} - {epochs.NAME}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
