"""From arrays to batches: the scaling, and the order in which an epoch takes its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from loopline.preprocessing.fitted import Choices, Inputs, Preprocessing
from loopline.preprocessing.scaling import UNSCALED, Scaling
from numpy.typing import NDArray
from torch import Tensor

from services.errors import DatasetInvalid, Problem
from services.training import provenance, raw
from services.training.files import scan
from services.training.files.npz import Arrays
from services.training.files.steps import FileSteps, places_of
from services.training.in_file import InFile
from services.training.parts import MiniBatch as MiniBatch
from services.training.parts import Part as Part
from services.training.parts import Ragged, Window
from services.training.preprocessing.fitting import fit_all
from services.training.preprocessing.later import Later
from services.training.preprocessing.missing import gaps_in
from services.training.preprocessing.scaling import standard
from services.training.spec import Spec
from services.training.splits import Parts, check_labels, split_rows
from services.training.tasks import known
from services.training.tasks.task import Task

WINDOW_BYTES = 64 << 20
"""How much of a shuffled epoch is gathered at once; batches are views of such a window."""
TOO_LARGE = 2.0**64
"""Numbers from here on have squares, as in a gradient's norm or a mean squared error, that float32 cannot hold."""
POOL_BATCHES = 16
"""Batches of similar length are cut from random pools of this many, so that their company changes every epoch."""


FILL_OR_DROP = "set data.missing to forward, mean or linear to fill them, or to drop to leave these samples out"


@dataclass(frozen=True)
class Prepared:
    """A data set ready for training."""

    task: Task
    train: Part
    validation: Part | None
    test: Part | None
    classes: list[int | str] | None
    preprocessing: Preprocessing
    target_scaling: Scaling
    input_size: int
    output_size: int
    rows: dict[str, NDArray[np.int64]]
    """Of each part, the rows of the data set."""
    left_out: dict[str, int]
    """Of each part, how many samples were left out because of missing values."""
    target_names: tuple[str, ...] = ()
    """Those of the values or labels to predict, if they have names."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What model.json says of the data set (`provenance.of_data`)."""
    sha256: str | None = None
    """Of the file that the data was read from; None for synthetic data, which the spec describes fully."""
    sample: Arrays | None = None
    """A few samples of training as the file has them; None of texts."""

    @property
    def scaling(self) -> Scaling:
        return self.preprocessing.scaling

    @property
    def static_size(self) -> int:
        """Values that the head reads beside the pooled steps."""
        return self.train.static_size

    def card(self) -> dict[str, Any]:
        """What model.json says beside what it says of every model."""
        return {}


def prepare(
    arrays: Arrays,
    spec: Spec,
    preprocessing: Preprocessing | None = None,
    target_scaling: Scaling | None = None,
    drawn: Parts | None = None,
) -> Prepared:
    """Splits and preprocesses a data set as the spec says, or with the preprocessing that a model was trained with.
    `drawn` are the rows of each part, where they are known.

    Raises DatasetInvalid when a part of the split cannot be used.
    """
    drawn = split_rows(arrays, spec.data.split) if drawn is None else drawn
    rows = _without_gaps(arrays, spec, drawn)
    if spec.architecture.batch_norm and len(rows["train"]) < 2:
        detail = "batch_norm needs at least two training samples, and the split leaves one"
        raise DatasetInvalid(f"{detail[0].upper()}{detail[1:]}.", [Problem("/architecture/batch_norm", detail)])
    preprocessing = preprocessing or fit_all(arrays, rows["train"], spec.data)
    inputs = _inputs(arrays, preprocessing)
    task = known.chosen(known.of_y(arrays.y).name, spec.training.loss)
    target_scaling = _target_scaling(task, arrays.y, rows["train"], spec, target_scaling)
    y, classes, output_size = task.targets(arrays.y, arrays.lengths, target_scaling)
    weights = _weights(arrays, rows["train"], by_step=task.by_step)
    parts = {name: _part(inputs, y, chosen, task.by_step, weights) for name, chosen in rows.items()}
    if classes is not None and not task.by_step:
        check_labels(y, classes, rows, spec.data.split)
    elif spec.training.best_by == "r2":
        _check_that_they_vary("validation" if len(rows["validation"]) else "train", parts)
    _check_sizes_of_numbers(parts["train"], rows["train"])
    return Prepared(
        task=task,
        train=parts["train"],
        validation=parts["validation"] if len(rows["validation"]) else None,
        test=parts["test"] if len(rows["test"]) else None,
        classes=classes,
        preprocessing=preprocessing,
        target_scaling=target_scaling,
        input_size=inputs.channels,
        output_size=output_size,
        rows=rows,
        target_names=arrays.targets,
        about=provenance.of_data(arrays, _lengths(arrays, inputs)[rows["train"]]),
        left_out={name: len(chosen) - len(rows[name]) for name, chosen in drawn.items()},
        sample=None if arrays.texts is not None else raw.few(arrays, rows["train"]),
    )


def _lengths(arrays: Arrays, inputs: Inputs | Later) -> NDArray[np.int64]:
    """The steps of all samples; of texts, the characters or words that are read."""
    return arrays.lengths if arrays.texts is None else inputs.lengths


def _without_gaps(arrays: Arrays, spec: Spec, rows: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """The rows of each part, without those that `missing: drop` leaves out.

    Raises DatasetInvalid where there are missing values and nothing is said of them, or where nothing is left of a
    part.
    """
    method = spec.data.missing
    if method not in ("refuse", "drop"):
        return rows
    gaps, columns = gaps_in(arrays, Choices.of(spec.data))
    if not gaps.any():
        return rows
    if method == "refuse":
        where = f"{_names_of(arrays, columns)} in {_named(arrays, np.flatnonzero(gaps))}"
        detail = f"values are missing ({where}): {FILL_OR_DROP}"
        raise DatasetInvalid(f"The data cannot be used as it is: {detail}.", [Problem("/data/missing", detail)])
    found = {name: chosen[~gaps[chosen]] for name, chosen in rows.items()}
    problems = [
        Problem("/data/missing", f"drop leaves nothing of the {name} split: each of its samples has a missing value")
        for name, chosen in rows.items()
        if len(chosen) and not len(found[name])
    ]
    if problems:
        raise DatasetInvalid(f"The data has too many missing values: {problems[0].detail}.", problems)
    return found


def _names_of(arrays: Arrays, chosen: NDArray[np.bool_]) -> str:
    """Features and values of whole sequences by name."""
    names = [column.name for column in (*arrays.columns, *arrays.static_columns)]
    found = [names[place] for place in np.flatnonzero(chosen)]
    return ", ".join(found[:10]) + (f" and {len(found) - 10:,} more" if len(found) > 10 else "")


def _named(arrays: Arrays, rows: NDArray[np.int64]) -> str:
    """The first of some samples, by their ids if they have any."""
    if arrays.groups is None:
        return scan.listed(rows)
    shown = ", ".join(arrays.groups[rows[:10]].tolist())
    return shown + (f" and {len(rows) - 10:,} more ({len(rows):,} in all)" if len(rows) > 10 else "")


def _weights(arrays: Arrays, train: NDArray[np.int64], *, by_step: bool) -> Tensor | None:
    """What the loss of each target is multiplied by, so that the mean over the targets of training is 1."""
    if arrays.weights is None:
        return None
    steps = arrays.lengths if by_step else np.ones(len(arrays), np.int64)
    mean = float((arrays.weights[train] * steps[train]).sum() / steps[train].sum())
    return torch.from_numpy(np.repeat(arrays.weights / mean, steps).astype(np.float32))


def _check_that_they_vary(name: str, parts: dict[str, Part]) -> None:
    """Raises DatasetInvalid where no epoch could be the best one by r2."""
    y = parts[name].y
    if bool((y == y[:1]).all()):
        why = "it has only one sample" if len(y) == 1 else f"the targets of its {len(y):,} samples are all the same"
        detail = (
            f"r2 is not defined on the {name} split, because {why}: "
            "set training.best_by to loss, mae or rmse, or give the split targets that vary"
        )
        raise DatasetInvalid(f"No epoch can be the best one: {detail}.", [Problem("/training/best_by", detail)])


def _check_sizes_of_numbers(train: Part, rows: NDArray[np.int64]) -> None:
    """Raises DatasetInvalid where the first update could only diverge, whatever the learning rate is."""
    problems = []
    scalings = {"x": "data.scaling", "y": "data.target_scaling"}
    for name, scaling in scalings.items():
        if name == "y" and not train.y.is_floating_point():
            continue
        if (train.peak() if name == "x" else float(torch.stack(train.y.aminmax()).abs().max())) < TOO_LARGE:
            continue
        peaks = train.peaks() if name == "x" else train.y.reshape(len(train.y), -1).abs().amax(dim=1)
        bad = rows[(~(peaks < TOO_LARGE)).numpy()]
        where = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10:,} more" if len(bad) > 10 else "")
        detail = (
            f"{name} of training rows {where} holds numbers of {float(peaks.max()):.3g} as training sees them, and "
            f"float32 cannot hold the square of 1.8e+19 or more: set {scaling} to standard, or rescale {name}"
        )
        problems.append(Problem(f"/{name}", detail))
    if problems:
        raise DatasetInvalid(f"The data is too large to train on: {problems[0].detail}.", problems)


def part_of(arrays: Arrays, rows: NDArray[np.int64], preprocessing: Preprocessing) -> Part:
    """Some rows as a model sees them that was trained with this preprocessing; their targets are left out (zeros)."""
    chosen = arrays.chosen(rows)
    by_step = known.of_y(arrays.y).by_step
    targets = torch.zeros(int(chosen.lengths.sum()) if by_step else len(rows))
    return _part(_inputs(chosen, preprocessing), targets, np.arange(len(rows)), by_step)


def _inputs(arrays: Arrays, preprocessing: Preprocessing) -> Inputs | Later:
    """What the network reads of all samples."""
    if isinstance(arrays.x, FileSteps):
        return Later.of(arrays.x, arrays, preprocessing)
    return preprocessing.applied(arrays)


def _part(
    inputs: Inputs | Later, y: Tensor, rows: NDArray[np.int64], by_step: bool, weights: Tensor | None = None
) -> Part:
    lengths = inputs.lengths
    chosen = lengths[rows]
    longest = int(chosen.max()) if len(chosen) else 1
    index = torch.from_numpy(places_of(lengths, rows) if by_step else rows)
    static = None if inputs.static is None else torch.from_numpy(inputs.static[rows])
    found = Part(
        x=torch.empty((len(rows), longest, 0)),
        lengths=None if bool((chosen == longest).all()) else torch.from_numpy(chosen),
        y=y if len(rows) == len(lengths) else y[index],
        by_step=by_step,
        static=static,
        weights=None if weights is None else weights[index],
    )
    if isinstance(inputs, Later):
        return InFile(**vars(found), inputs=inputs.chosen(rows))
    if inputs.x.ndim == 2:
        x, sizes = torch.from_numpy(inputs.x[places_of(lengths, rows)]), chosen
        return Ragged(**vars(replace(found, x=x, y=y[index])), sizes=sizes)
    return replace(found, x=_rows_of(inputs.x, rows, longest))


def _rows_of(x: NDArray[np.float32], rows: NDArray[np.int64], longest: int) -> Tensor:
    if len(rows) < len(x):
        return torch.from_numpy(x[rows, :longest])
    return torch.from_numpy((x if x.flags.writeable else x.copy())[:, :longest])  # if not, it is mapped from a file


def _target_scaling(
    task: Task, y: NDArray[Any], train: NDArray[np.int64], spec: Spec, given: Scaling | None
) -> Scaling:
    """The scaling of the values to predict; that of another model where it has one for as many targets."""
    if not task.scales_targets:
        return UNSCALED
    columns = y.reshape(len(y), -1)
    if given is not None and (given.shift is None or len(given.shift) == columns.shape[1]):
        return given
    if spec.data.target_scaling != "standard":
        return UNSCALED
    return standard(columns[train])


@dataclass(frozen=True)
class Order:
    """The order of one epoch: the rows of every batch. A function of (seed, epoch), so its state is two integers."""

    batches: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.batches)


def order_of(
    epoch: int, *, seed: int, samples: int, batch_size: int, lengths: NDArray[np.int64] | None = None, least: int = 1
) -> Order:
    """Draws the batches of an epoch; with lengths, batches of similar length in a random order.

    A last batch of fewer than `least` samples joins the one before it: batch normalisation cannot train on one sample.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(samples)
    pool = POOL_BATCHES * batch_size
    if lengths is not None:
        pools = [rows[start : start + pool] for start in range(0, samples, pool)]
        rows = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in pools])
    batches = [rows[start : start + batch_size] for start in range(0, samples, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        short = batches.pop()
        batches[-1] = np.concatenate((batches[-1], short))
    if lengths is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return Order(batches)


def in_pieces(order: Order, accumulate: int, most: int | None, least: int) -> tuple[Order, list[int]]:
    """The batches of an order cut into micro-batches of at most `most` samples, and how many make up each update.

    The rows keep their order. No piece has fewer than `least` samples, so one may have more than `most`.
    """
    starts = range(0, len(order), accumulate)
    if most is None:
        return order, [min(accumulate, len(order) - start) for start in starts]
    updates = [
        [piece for rows in order.batches[start : start + accumulate] for piece in _cut(rows, most, least)]
        for start in starts
    ]
    return Order([piece for pieces in updates for piece in pieces]), [len(pieces) for pieces in updates]


def _cut(rows: NDArray[np.int64], most: int, least: int) -> list[NDArray[np.int64]]:
    return np.array_split(rows, max(1, min(math.ceil(len(rows) / most), len(rows) // least)))


def batches_of(part: Part, order: Order, device: torch.device, *, skip: int = 0) -> Iterator[MiniBatch]:
    """The batches of an order from number `skip` on, on the device.

    Samples are gathered a window at a time and batches are views of it: one gather serves many small batches.
    """
    return part.batches(_windows(order.batches[skip:], part.row_bytes), device)


def _windows(batches: Sequence[NDArray[np.int64]], row_bytes: int) -> Iterator[Window]:
    window: Window = []
    held = 0
    for rows in batches:
        if window and held + len(rows) * row_bytes > WINDOW_BYTES:
            yield window
            window, held = [], 0
        window.append(rows)
        held += len(rows) * row_bytes
    if window:
        yield window


def place(part: Part, device: torch.device) -> Part:
    """The whole part on a GPU where it takes less than a quarter of the free memory there; else where it is."""
    if device.type != "cuda":
        return part
    free, _ = torch.cuda.mem_get_info(device)
    return part.to(device) if part.nbytes < free / 4 else part


def bounded(part: Part, rows: NDArray[np.int64], most: int, most_bytes: int = WINDOW_BYTES) -> Order:
    """Batches of some samples for a computation on the CPU, those of similar length together: at most so many samples,
    and so many bytes of steps, in each."""
    rows = rows if part.lengths is None else rows[np.argsort(part.lengths.numpy()[rows], kind="stable")]
    size = max(1, min(most, most_bytes // max(1, part.row_bytes)))
    return Order(np.array_split(rows, max(1, math.ceil(len(rows) / size))))


def in_order(samples: int, batch_size: int, lengths: NDArray[np.int64] | None = None) -> Order:
    """Batches for evaluation: every sample once, sorted by length where lengths differ."""
    rows = np.arange(samples) if lengths is None else np.argsort(lengths, kind="stable")
    return Order(np.array_split(rows, max(1, math.ceil(samples / batch_size))))
