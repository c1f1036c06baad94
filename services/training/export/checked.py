"""Makes the ONNX file of a model, and compares it with the model in PyTorch before anybody gets it.

Both answer to a few samples of training in several shapes: alone and in a batch, cut to one step and longer than they
are, with missing values where the model fills them, and with anything in the padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
import torch
from loopline.prediction.document import Document, parsed
from loopline.preprocessing.fitted import WITH_GAPS_LEFT, Fitted, recoded
from numpy.typing import NDArray
from torch import Tensor

from services.training import windows
from services.training.data import Prepared
from services.training.export.model import build
from services.training.export.network import states_of
from services.training.export.preprocessing import dtype_of
from services.training.files.arrays import Arrays
from services.training.files.series import with_calendar
from services.training.loop import network
from services.training.model import SequenceModel
from services.training.spec import stored
from services.training.spec.fields import Forecast as ForecastTask
from services.training.tasks.forecast import Forecast

MOST_BYTES = 1_500_000_000
"""Of weights: a file of protobuf cannot be larger than 2 GB."""
MOST_WORK = 4e9
"""Multiplications of the steps that the check takes, about: a second."""
LONGER = 5
"""Steps more than the longest sample has."""
TOLERANCE = 1e-4
"""Relative to each number; of probabilities to their logarithm, so that the unlikely ones have to agree too."""
LEAST = 1e-5
"""What values may differ by at least, as a share of the largest one and of the weights of the head."""
LEAST_PROBABILITY = 1e-30
"""Smaller ones are equal."""

Answers = dict[str, NDArray[Any]]


class CannotExport(Exception):
    """There is no ONNX file of this model, and why; a clause."""


@dataclass(frozen=True)
class Case:
    """What the file is asked, and what PyTorch answers to it."""

    given: Answers
    wanted: Answers
    inside: NDArray[np.bool_] | None = None
    """(batch, time): the steps that `wanted` has, one after the other; None where it has an answer for a sequence."""
    shift: NDArray[np.float64] | float = 0.0
    scale: NDArray[np.float64] | float = 1.0
    """How values were scaled in training: they are compared as the network answers them."""
    size: float = 0.0
    """Of the weights of the head that makes values."""


def exported(plain: Mapping[str, Any], weights: Mapping[str, Tensor], data: Prepared) -> bytes:
    """The file of the model with this model.json and these weights, which were trained on this data.

    Raises CannotExport.
    """
    size = sum(tensor.nbytes for tensor in weights.values())
    if size > MOST_BYTES:
        raise CannotExport(f"its weights take {size / 1e9:.1f} GB, and the most is {MOST_BYTES / 1e9:.1f} GB")
    document = parsed(plain)
    dtype = np.float32 if data.sample is None else data.sample.x.dtype
    found = build(document, {name: tensor.numpy() for name, tensor in weights.items()}, dtype, data.target_names)
    check(found, cases(document, weights, data))
    return found


def check(file: bytes, wanted: Iterator[Case]) -> None:
    """Raises CannotExport where ONNX Runtime answers otherwise than PyTorch."""
    session = session_of(file)
    for case in wanted:
        for name, answers in answered(session, case).items():
            if name in ("label", "labels"):
                _check_labels(answers, case.wanted["probabilities"])
            elif name == "state_out":
                least = TOLERANCE * (1.0 + float(np.abs(case.wanted[name]).max()))
                _check_numbers("numbers of its state", answers, case.wanted[name], least)
            elif name == "values":
                found, right = ((each - case.shift) / case.scale for each in (answers, case.wanted[name]))
                least = LEAST * (case.size + float(np.abs(right).max(initial=0.0)))
                _check_numbers(name, found, right, least)
            else:
                found, right = (np.log(np.maximum(each, LEAST_PROBABILITY)) for each in (answers, case.wanted[name]))
                _check_numbers(f"logarithms of {name}", found, right, TOLERANCE)


def session_of(file: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def answered(session: onnxruntime.InferenceSession, case: Case) -> Answers:
    """What the file answers, in the form of `Case.wanted`."""
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, case.given), strict=True))
    return found if case.inside is None else {name: each[case.inside] for name, each in found.items()}


def _check_numbers(name: str, found: NDArray[Any], wanted: NDArray[Any], least: float) -> None:
    if found.shape != wanted.shape:
        raise CannotExport(f"ONNX Runtime gives {name} of shape {found.shape}, and PyTorch of {wanted.shape}")
    same = np.isclose(found, wanted, rtol=TOLERANCE, atol=least, equal_nan=True)
    if not same.all():
        at = tuple(int(axis[0]) for axis in np.nonzero(~same))
        raise CannotExport(
            f"ONNX Runtime and PyTorch do not agree: one of its {name} is {found[at]:.6g} in ONNX Runtime, and "
            f"{wanted[at]:.6g} in PyTorch"
        )


def _check_labels(found: NDArray[Any], probabilities: NDArray[Any]) -> None:
    """The likeliest ones, or ones that are as likely to rounding."""
    rows = np.arange(len(found))
    bad = ~(probabilities[rows, found] >= probabilities.max(axis=1) * (1 - 2 * TOLERANCE))
    if bad[np.isfinite(probabilities).all(axis=1)].any():
        raise CannotExport("ONNX Runtime and PyTorch do not agree: they find other classes the likeliest ones")


# ---- what PyTorch answers


def cases(document: Document, weights: Mapping[str, Tensor], data: Prepared) -> Iterator[Case]:
    model = _network(document, weights, data)
    if document.forecast is not None:
        yield from _of_forecast(document, model, data)
    elif document.task == "next_step":
        yield from _of_next_step(document, model)
    elif document.preprocessing.text is not None:
        for codes, lengths in _token_numbers(document, _most_steps(model)):
            yield _case(document, model, codes, lengths, None, {"x": codes, "lengths": lengths})
    else:
        assert data.sample is not None, "only texts have none"  # noqa: S101
        for arrays in variants(data.sample, document.preprocessing.steps, _most_steps(model)):
            inputs = document.preprocessing.applied(arrays)
            yield _case(document, model, inputs.x, inputs.lengths, inputs.static, given(arrays, document))


def _network(document: Document, weights: Mapping[str, Tensor], data: Prepared) -> SequenceModel:
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and are not kept
        model = network(stored(document.plain["spec"]).architecture, data)
    model.load_state_dict(weights)
    return model.eval()


def _most_steps(model: SequenceModel) -> int:
    size = sum(parameter.numel() for parameter in model.rnn.parameters())
    return max(2, int(MOST_WORK / (4 * size)))


@torch.no_grad()
def _case(
    document: Document,
    model: SequenceModel,
    x: NDArray[np.float32],
    lengths: NDArray[np.int64],
    static: NDArray[np.float32] | None,
    given: Answers,
) -> Case:
    beside = None if static is None else torch.from_numpy(static)
    outputs = model(torch.from_numpy(x), torch.from_numpy(lengths), beside)
    inside = None
    if model.architecture.pooling == "none":
        inside = np.arange(given["x"].shape[1]) < given["lengths"][:, None]
    if document.task == "regression":
        scaling = document.target_scaling
        shift, scale = np.asarray(scaling.shift or 0.0), np.asarray(scaling.scale or 1.0)
        values = {"values": scaling.undone(outputs.numpy()).astype(np.float64)}
        return Case(given, values, shift=shift, scale=scale, size=_size_of_head(model))
    return Case(given, _probabilities(document, outputs), inside)


def _size_of_head(model: SequenceModel) -> float:
    return float(model.head.weight.norm(dim=1).max() + model.head.bias.abs().max())


def _probabilities(document: Document, outputs: Tensor) -> Answers:
    if document.task == "multilabel":
        return {"probabilities": outputs.sigmoid().numpy()}
    if document.has_one_logit:
        return {"probabilities": torch.cat((-outputs, outputs), dim=1).sigmoid().numpy()}
    return {"probabilities": outputs.softmax(dim=1).numpy()}


def variants(sample: Arrays, fitted: Fitted, most: int) -> Iterator[Arrays]:
    """The samples in several shapes, cut to so many steps."""
    sample = _cut(_readable(sample, fitted), most)
    yield sample
    yield _cut(sample.chosen(np.array([0])), 1)
    yield _longer(sample)
    if fitted.choices.missing not in WITH_GAPS_LEFT:
        yield _with_gaps(sample)


def _readable(arrays: Arrays, fitted: Fitted) -> Arrays:
    """Without gaps if nothing fills them: there may be some in steps that training does not read."""
    if fitted.choices.missing not in WITH_GAPS_LEFT:
        return arrays
    return replace(arrays, x=np.nan_to_num(arrays.x_in_memory))


def _cut(arrays: Arrays, steps: int) -> Arrays:
    lengths = np.minimum(arrays.lengths, steps)
    x = arrays.x_in_memory[:, : int(lengths.max())].copy()
    x[np.arange(x.shape[1]) >= lengths[:, None]] = 0.0
    return replace(arrays, x=x, lengths=lengths)


def _longer(arrays: Arrays) -> Arrays:
    """The first sample alone, gone on with its own steps."""
    one = arrays.chosen(np.array([0]))
    steps = one.x_in_memory[:, : int(one.lengths[0])]
    size = int(arrays.lengths.max()) + LONGER
    return replace(one, x=np.resize(steps[0], (1, size, steps.shape[2])), lengths=np.array([size]))


def _with_gaps(arrays: Arrays) -> Arrays:
    def holes(values: NDArray[Any]) -> NDArray[Any]:
        places = np.arange(values.size).reshape(values.shape)
        return np.where(places % 3 == 0, values.dtype.type(np.nan), values)

    x = holes(arrays.x_in_memory)
    x[np.arange(x.shape[1]) >= arrays.lengths[:, None]] = 0.0
    return replace(arrays, x=x, static=None if arrays.static is None else holes(arrays.static))


def given(arrays: Arrays, document: Document) -> Answers:
    """The same for the file: words by their numbers in training, and a padding that may not matter."""
    prepared = document.preprocessing
    x = recoded(arrays.x_in_memory, arrays.columns, prepared.steps.features)
    return {"x": _padded(x, arrays.lengths), "lengths": arrays.lengths, **_static(arrays, document)}


def _static(arrays: Arrays, document: Document) -> Answers:
    if arrays.static is None or not document.static:
        return {}
    values = recoded(arrays.static[:, None, :], arrays.static_columns, document.static)[:, 0]
    assert document.preprocessing.static is not None  # noqa: S101
    return {"static": values.astype(dtype_of(document.preprocessing.static.scaling))}


def _padded(x: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """With a step more, and in the padding what is no number."""
    found = np.concatenate((x, x[:, :1]), axis=1)
    found[np.arange(found.shape[1]) >= lengths[:, None]] = np.nan
    return found


def _token_numbers(document: Document, most: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Made up: all that a network reads of a text are numbers of its vocabulary. In some shapes."""
    text, patch = document.preprocessing.text, document.preprocessing.steps.choices.patch
    assert text is not None  # noqa: S101
    for lengths in ([7, 1, 30], [1], [100]):
        sizes = np.minimum(lengths, most)
        codes = np.arange(len(sizes) * int(sizes.max()) * patch) * 7919 % (text.rows - 1) + 1
        x = codes.astype(np.float32).reshape(len(sizes), -1, patch)
        x[np.arange(x.shape[1]) >= sizes[:, None]] = 0.0
        yield x, sizes.astype(np.int64)


# ---- what comes next in a text


def _of_next_step(document: Document, model: SequenceModel) -> Iterator[Case]:
    """Texts from their beginning on, and a token more."""
    shape = states_of(document.architecture), document.architecture.hidden_size
    for x, lengths in _token_numbers(document, _most_steps(model)):
        begun = _read_on(model, x, lengths, np.zeros((shape[0], len(x), shape[1]), np.float32))
        yield begun
        yield _read_on(model, x[:, :1], np.ones(len(x), np.int64), begun.wanted["state_out"])


@torch.no_grad()
def _read_on(
    model: SequenceModel, x: NDArray[np.float32], lengths: NDArray[np.int64], state: NDArray[np.float32]
) -> Case:
    """What follows on these tokens from a state (states, batch, hidden_size) on."""
    probabilities, after = [], []
    for row, length in enumerate(lengths.tolist()):  # one by one: in a batch only the longest has its own last state
        own = torch.from_numpy(state[:, [row]]).chunk(2 if model.architecture.cell == "lstm" else 1)
        outputs, ended = model.continued(torch.from_numpy(x[[row], :length]), None, None, own)
        probabilities.append(outputs[-1].softmax(dim=0).numpy())
        after.append(torch.cat(ended).numpy())
    wanted = {"probabilities": np.stack(probabilities), "state_out": np.concatenate(after, axis=1)}
    return Case({"x": x, "lengths": lengths, "state": state}, wanted)


# ---- forecasts


@torch.no_grad()
def _of_forecast(document: Document, model: SequenceModel, data: Prepared) -> Iterator[Case]:
    """Windows of a few series, each of which the file gets with everything before it."""
    task, forecast = stored(document.plain["spec"]).task, document.forecast
    assert data.sample is not None  # noqa: S101
    assert forecast is not None  # noqa: S101
    assert isinstance(task, ForecastTask)  # noqa: S101
    sample = _readable(data.sample, document.preprocessing.steps)
    several = (sample,) if forecast.lookback <= _most_steps(model) else ()
    for arrays in (*several, sample.chosen(np.array([0]))):
        ends = arrays.lengths - forecast.horizon
        part = windows.part_of(arrays, np.arange(len(arrays)) * arrays.x.shape[1] + ends, forecast.fit, task)
        (batch,) = part.pieces([np.arange(len(arrays))], torch.device("cpu"))
        units = windows.units(arrays, forecast.fit)
        judge = Forecast(part.horizon, len(forecast.targets), forecast.quantiles, units)
        values = judge.unscaled(judge.ordered(model(batch.x, None, batch.static)), batch.y[:, -1])
        shape = (len(arrays), part.horizon, judge.width, *((len(judge.quantiles),) if judge.quantiles else ()))
        at = (slice(None), None, slice(None), *((None,) if judge.quantiles else ()))
        yield Case(
            _history(arrays, ends, document),
            {"values": values.reshape(shape).numpy()},
            shift=units.shift[at],
            scale=units.scale[at],
            size=_size_of_head(model),
        )


def _history(arrays: Arrays, ends: NDArray[np.int64], document: Document) -> Answers:
    """The steps of series up to these ends, and what is known of the steps after them."""
    forecast = document.forecast
    assert forecast is not None  # noqa: S101
    arrays = with_calendar(arrays, forecast.calendar)
    features = document.preprocessing.steps.features
    x = recoded(arrays.x_in_memory, arrays.columns, features)
    found = {"x": _padded(x[:, : int(ends.max())], ends), "lengths": ends, **_static(arrays, document)}
    names = [feature.name for feature in features]
    if known := [names.index(name) for name in forecast.known]:
        ahead = ends[:, None] + np.arange(forecast.horizon)
        found["known_future"] = np.take_along_axis(x, ahead[:, :, None], axis=1)[:, :, known]
    if (by_series := forecast.fit.inputs or forecast.fit.outputs) is not None:
        ids = list(by_series.ids)
        groups = map(str, range(len(arrays))) if arrays.groups is None else arrays.groups.tolist()
        found["series"] = np.array([ids.index(each) if each in ids else len(ids) for each in groups], np.int64)
    return found
