"""From arrays to batches: the scaling, and the order in which an epoch takes its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.errors import DatasetInvalid, Problem
from services.training.files import scan
from services.training.files.npz import Arrays
from services.training.preprocessing.fitted import Choices, Inputs, Preprocessing, fit_all, gaps_in
from services.training.preprocessing.scaling import UNSCALED, Scaling, standard
from services.training.spec import Spec
from services.training.splits import check_labels, split_rows
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
class Part:
    """One part of the split, on the CPU: x (samples, time, channels), lengths or None where all are full, targets."""

    x: Tensor
    lengths: Tensor | None
    y: Tensor
    by_step: bool = False
    """Whether y has the targets of each valid step, of one sequence after the other."""
    static: Tensor | None = None
    """(samples, values): what the head reads beside the pooled steps."""
    weights: Tensor | None = None
    """What the loss of each of y is multiplied by: (samples,), or (steps,) of targets of steps."""

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Part:
        lengths, static, weights = (
            None if each is None else each.to(device) for each in (self.lengths, self.static, self.weights)
        )
        return Part(self.x.to(device), lengths, self.y.to(device), self.by_step, static, weights)

    @property
    def row_bytes(self) -> int:
        """Of the steps of one sample."""
        return self.x[0].nbytes if len(self) else 1

    @property
    def static_size(self) -> int:
        """Values that the head reads beside the pooled steps."""
        return 0 if self.static is None else self.static.shape[1]

    @property
    def answers(self) -> int:
        """How many targets there are: one for each sample, or for each valid step."""
        return len(self.y) if self.by_step else len(self)

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """Of each sample, the number of the block of samples that may depend on each other; None if all samples are
        taken as independent."""
        return None

    def targets(self, places: Tensor) -> Tensor:
        """Those at these places (`places`), where they are."""
        return self.y[places.to(self.y.device)]

    def pieces(self, window: list[NDArray[np.int64]], device: torch.device) -> Iterator[MiniBatch]:
        """The batches of these rows on the device."""
        return _gather(self, window, device)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """The valid steps of each sequence."""
        return np.full(len(self), self.x.shape[1]) if self.lengths is None else self.lengths.cpu().numpy()

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the targets of these sequences are in y, in their order."""
        return _places(self.steps, rows) if self.by_step else rows


@dataclass(frozen=True)
class Ragged(Part):
    """Sequences of very different lengths, such as texts: only a batch is padded. x (steps, channels) has one sequence
    after the other."""

    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(samples,): the steps of each sequence."""

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device) -> Ragged:
        static, weights = (None if each is None else each.to(device) for each in (self.static, self.weights))
        return replace(self, x=self.x.to(device), y=self.y.to(device), static=static, weights=weights)

    @property
    def row_bytes(self) -> int:
        return int(self.sizes.max(initial=1)) * self.x.shape[1] * self.x.element_size()

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        return self.sizes

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.sizes) - self.sizes

    def pieces(self, window: list[NDArray[np.int64]], device: torch.device) -> Iterator[MiniBatch]:
        for rows in window:
            sizes = self.sizes[rows]
            steps = np.arange(int(sizes.max()))
            valid = steps < sizes[:, None]
            places = torch.from_numpy(np.where(valid, self._starts[rows][:, None] + steps, 0)).to(self.x.device)
            padding = torch.from_numpy(~valid).to(self.x.device)
            lengths = None if valid.all() else torch.from_numpy(sizes).to(device)
            found = _moved(self, self.x[places].masked_fill_(padding[:, :, None], 0.0), rows, device, gathered=True)
            yield replace(found, lengths=lengths)


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
    sha256: str | None = None
    """Of the file that the data was read from; None for synthetic data, which the spec describes fully."""

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


@dataclass(frozen=True)
class MiniBatch:
    """x (batch, time, channels) cut to its longest sequence; lengths (batch,) or None where all are equal; targets;
    static (batch, values) and weights, one for each target, if the data has them."""

    x: Tensor
    lengths: Tensor | None
    y: Tensor
    static: Tensor | None = None
    weights: Tensor | None = None


def _places(lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of sequences whose steps stand one after the other, the places of the steps of some."""
    starts, counts = (np.cumsum(lengths) - lengths)[rows], lengths[rows]
    found: NDArray[np.int64] = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return found


def prepare(
    arrays: Arrays, spec: Spec, preprocessing: Preprocessing | None = None, target_scaling: Scaling | None = None
) -> Prepared:
    """Splits and preprocesses a data set as the spec says, or with the preprocessing that a model was trained with.

    Raises DatasetInvalid when a part of the split cannot be used.
    """
    drawn = split_rows(arrays, spec.data.split)
    rows = _without_gaps(arrays, spec, drawn)
    if spec.architecture.batch_norm and len(rows["train"]) < 2:
        detail = "batch_norm needs at least two training samples, and the split leaves one"
        raise DatasetInvalid(f"{detail[0].upper()}{detail[1:]}.", [Problem("/architecture/batch_norm", detail)])
    preprocessing = preprocessing or fit_all(arrays, rows["train"], spec.data)
    inputs = preprocessing.applied(arrays)
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
        input_size=inputs.x.shape[-1],
        output_size=output_size,
        rows=rows,
        target_names=arrays.targets,
        left_out={name: len(chosen) - len(rows[name]) for name, chosen in drawn.items()},
    )


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
    for (name, scaling), numbers in zip(scalings.items(), (train.x, train.y), strict=True):
        if not numbers.is_floating_point() or float(torch.stack(numbers.aminmax()).abs().max()) < TOO_LARGE:
            continue
        peaks = numbers.reshape(len(numbers), -1).abs().amax(dim=1)
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
    return _part(preprocessing.applied(chosen), targets, np.arange(len(rows)), by_step)


def _part(inputs: Inputs, y: Tensor, rows: NDArray[np.int64], by_step: bool, weights: Tensor | None = None) -> Part:
    x, lengths = inputs.x, inputs.lengths
    whole = len(rows) == len(lengths)
    chosen = lengths[rows]
    longest = int(chosen.max()) if len(chosen) else 1
    if x.ndim == 2:
        return _ragged(inputs, y, rows, weights)
    if whole and not x.flags.writeable:  # it is mapped from a file
        x = x.copy()
    index = torch.from_numpy(_places(lengths, rows) if by_step else rows)
    return Part(
        x=torch.from_numpy(x[:, :longest] if whole else x[rows, :longest]),
        lengths=None if bool((chosen == longest).all()) else torch.from_numpy(chosen),
        y=y if whole else y[index],
        by_step=by_step,
        static=None if inputs.static is None else torch.from_numpy(inputs.static[rows]),
        weights=None if weights is None else weights[index],
    )


def _ragged(inputs: Inputs, y: Tensor, rows: NDArray[np.int64], weights: Tensor | None) -> Ragged:
    index, sizes = torch.from_numpy(rows), inputs.lengths[rows]
    uniform = len(rows) > 0 and bool((sizes == sizes[0]).all())
    return Ragged(
        x=torch.from_numpy(inputs.x[_places(inputs.lengths, rows)]),
        lengths=None if uniform else torch.from_numpy(sizes),
        y=y[index],
        static=None if inputs.static is None else torch.from_numpy(inputs.static[rows]),
        weights=None if weights is None else weights[index],
        sizes=sizes,
    )


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
    row_bytes = part.row_bytes
    window: list[NDArray[np.int64]] = []
    held = 0
    for rows in order.batches[skip:]:
        if window and held + len(rows) * row_bytes > WINDOW_BYTES:
            yield from part.pieces(window, device)
            window, held = [], 0
        window.append(rows)
        held += len(rows) * row_bytes
    if window:
        yield from part.pieces(window, device)


def _gather(part: Part, window: list[NDArray[np.int64]], device: torch.device) -> Iterator[MiniBatch]:
    sizes = [len(rows) for rows in window]
    if part.lengths is None:
        each = part.x.shape[1] if part.by_step else 1
        whole = _moved(part, part.x, np.concatenate(window), device)
        targets = [each * size for size in sizes]
        for x, y, static, weights in zip(
            torch.split(whole.x, sizes),
            torch.split(whole.y, targets),
            _split(whole.static, sizes),
            _split(whole.weights, targets),
            strict=True,
        ):
            yield MiniBatch(x, None, y, static, weights)
        return
    lengths = part.lengths.cpu().numpy()
    for rows in window:
        longest = int(lengths[rows].max())
        uniform = bool((lengths[rows] == longest).all())
        chosen = torch.from_numpy(rows)
        found = _moved(part, part.x[:, :longest], rows, device)
        yield replace(found, lengths=None if uniform else part.lengths[chosen.to(part.lengths.device)].to(device))


def _split(values: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(sizes) if values is None else torch.split(values, sizes)


def _moved(
    part: Part, x: Tensor, rows: NDArray[np.int64], device: torch.device, *, gathered: bool = False
) -> MiniBatch:
    """Some sequences of a part on the device, without their lengths. `x` has all of its sequences, or, `gathered`,
    these only."""
    index, places = torch.from_numpy(rows), torch.from_numpy(part.places(rows))
    of_x = torch.arange(len(rows)) if gathered else index
    taken = ((x, of_x), (part.y, places), (part.static, index), (part.weights, places))
    if x.device == device:
        moved = [None if values is None else values.index_select(0, at.to(device)) for values, at in taken]
    else:
        moved = [
            None if values is None else values.index_select(0, at).pin_memory().to(device, non_blocking=True)
            for values, at in taken
        ]
    xs, ys, static, weights = moved
    assert xs is not None  # noqa: S101
    assert ys is not None  # noqa: S101
    return MiniBatch(xs, None, ys, static, weights)


def place(part: Part, device: torch.device) -> Part:
    """The whole part on a GPU where it takes less than a quarter of the free memory there; else where it is."""
    if device.type != "cuda":
        return part
    free, _ = torch.cuda.mem_get_info(device)
    return part.to(device) if part.x.nbytes < free / 4 else part


def in_order(samples: int, batch_size: int, lengths: NDArray[np.int64] | None = None) -> Order:
    """Batches for evaluation: every sample once, sorted by length where lengths differ."""
    rows = np.arange(samples) if lengths is None else np.argsort(lengths, kind="stable")
    return Order(np.array_split(rows, max(1, math.ceil(samples / batch_size))))
