"""Makes sequences of arrays and texts, and checks that the model can take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.counting import counted
from loopline.prediction import calendar, unseen
from loopline.prediction.document import Document, columns_of
from loopline.prediction.errors import refused
from loopline.prediction.given import Given, Rows
from loopline.preprocessing.fitted import Feature

_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 8


def of_texts(document: Document, texts: Sequence[Any], static: Any = None, ids: Any = None) -> Given:
    """Raises InputInvalid."""
    if document.preprocessing.text is None:
        raise refused(f"the model takes no texts: give {_wanted(document)}")
    if not len(texts):
        raise refused("there is no text")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise refused(f"text {place} is {_kind(text)}: give str")
    count = len(texts)
    return Given(
        x=np.zeros((count, 0), np.float32),
        lengths=np.ones(count, np.int64),
        columns=(),
        texts=np.array([*texts, None], np.object_)[:-1],  # numpy would read one text as its letters
        **_besides(document, count, static, ids),
    )


def of_arrays(
    document: Document,
    x: Any,
    lengths: Any = None,
    static: Any = None,
    future: Any = None,
    ids: Any = None,
    end: Any = None,
) -> Given:
    """`x` is one array (steps, features) or (sequences, steps, features), or a list of arrays (steps, features).

    Raises InputInvalid.
    """
    if document.preprocessing.text is not None:
        raise refused("the model takes texts: give a str, or a list of str")
    given = _sequences(document, x, lengths)
    sizes = np.array([len(each) for each in given], np.int64)
    steps = np.concatenate(given)
    found = Given(
        x=steps,
        lengths=sizes,
        columns=columns_of(document.given),
        future=_future(document, len(given), future),
        **_besides(document, len(given), static, ids),
    )
    return calendar.with_calendar(document, calendar.with_end(document, found, end))


def of_step(document: Document, step: Any) -> NDArray[Any]:
    """One step of a sequence, (features,). Raises InputInvalid."""
    found = _numbers(step, "the step")
    if found.ndim == 0 and len(document.features) == 1:
        found = found[None]
    if found.ndim != 1:
        raise refused(f"the step has the shape {found.shape}: give (features,)")
    x = _steps(document, found[None], "the step")
    check_values(document, Given(x=x, lengths=np.ones(1, np.int64), columns=columns_of(document.features), ids=("0",)))
    return np.asarray(x[0])


def of_static(document: Document, static: Any) -> Given:
    """A sequence of which there is nothing yet but the values of the whole sequence. Raises InputInvalid."""
    found = Given(
        x=np.zeros((1, 0), np.float32), lengths=np.ones(1, np.int64), columns=(), **_besides(document, 1, static, None)
    )
    if found.static is not None:
        _check_numbers(found, found.static, document.static)
        if not document.takes_gaps:
            _check_gaps(document, found)
    return found


def check(document: Document, given: Given) -> Given:
    """The sequences with warnings about what training has not seen. Raises InputInvalid where the model has no answer,
    because values are missing, or steps."""
    check_values(document, given)
    return replace(given, warnings=(*given.warnings, *unseen.warnings(document, given)))


def check_values(document: Document, given: Given) -> None:
    """Raises InputInvalid where the model has no answer."""
    _check_numbers(given, given.x, document.features)
    if given.static is not None:
        _check_numbers(replace(given, lengths=np.ones(len(given), np.int64)), given.static, document.static)
    if document.forecast is not None:
        if given.future is not None:
            by_name = {feature.name: feature for feature in document.features}
            known = [by_name[name] for name in document.forecast.known]
            ahead = replace(given, lengths=np.full(len(given), document.forecast.horizon))
            _check_numbers(ahead, given.future.reshape(-1, len(known)), known)
        lookback = document.forecast.lookback
        short = np.flatnonzero(given.lengths < lookback)
        if short.size:
            has = int(given.lengths[short[0]])
            raise refused(
                f"the forecast reads the last {counted(lookback, 'step')}, and there {'is' if has == 1 else 'are'} "
                f"{has:,}: give at least {lookback:,}",
                given.named(short),
            )
    if not document.takes_gaps:
        _check_gaps(document, given)


# ---- steps


def _sequences(document: Document, x: Any, lengths: Any) -> list[NDArray[Any]]:
    """(steps, features) each."""
    if isinstance(x, list | tuple) and len(x) and all(hasattr(each, "__array__") or _is_steps(each) for each in x):
        steps = [_steps(document, each, f"sequence {place}") for place, each in enumerate(x)]
        sizes = _sizes(lengths, [len(each) for each in steps])
        return [each[:size] for each, size in zip(steps, sizes.tolist(), strict=True)]
    found = _numbers(x, "x")
    if found.ndim == 2:
        if lengths is not None:
            raise refused("lengths are for an x of shape (sequences, steps, features)")
        return [_steps(document, found, "x")]
    if found.ndim != 3:
        names = f"{counted(len(document.given), 'feature')}: {_listed(document.given)}"
        raise refused(
            f"x has the shape {found.shape}: give (steps, features) or (sequences, steps, features), with {names}"
        )
    if not len(found):
        raise refused(f"x is empty: its shape is {found.shape}")
    sizes = _sizes(lengths, [found.shape[1]] * len(found))
    return [_steps(document, each[:size], "x") for each, size in zip(found, sizes.tolist(), strict=True)]


def _is_steps(value: Any) -> bool:
    """Whether a value is a list of steps, each of them a list of numbers."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(step, list | tuple) for step in value)


def _sizes(lengths: Any, most: Sequence[int]) -> Rows:
    """How many steps of each sequence are read, of those that there are."""
    if lengths is None:
        return np.array(most, np.int64)
    found = _numbers(lengths, "lengths")
    if found.shape != (len(most),) or found.dtype.kind not in "iu":
        raise refused(
            f"lengths has the shape {found.shape}: give {counted(len(most), 'whole number')}, one for each sequence"
        )
    bad = np.flatnonzero((found < 1) | (found > most))
    if bad.size:
        first = int(bad[0])
        raise refused(f"lengths of sequence {first} is {int(found[first])}: give 1 to {most[first]:,}")
    return found.astype(np.int64)


def _steps(document: Document, x: Any, where: str) -> NDArray[Any]:
    found = _numbers(x, where)
    if found.ndim != 2:
        raise refused(f"it has the shape {found.shape}: give (steps, features)", where)
    if not len(found):
        raise refused("it has no steps: leave it out", where)
    if found.shape[1] != len(document.given):
        raise refused(
            f"it has {counted(found.shape[1], 'feature')} at each step, and the model takes {len(document.given):,}: "
            f"{_listed(document.given)}",
            where,
        )
    return found


def _numbers(values: Any, what: str) -> NDArray[Any]:
    """float32 or float64, or whole numbers. Raises InputInvalid for anything else."""
    if hasattr(values, "detach"):  # a tensor of torch may be on a GPU, or have a gradient
        values = values.detach().cpu()
    try:
        found = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise refused(
            f"it is no array of numbers ({str(error)[:120]}); give a list for different lengths", what
        ) from None
    if found.dtype.kind == "O":
        try:
            found = found.astype(np.float64)  # None is missing
        except (ValueError, TypeError):
            raise refused("it has Python objects: give numbers", what) from None
    if found.dtype.kind == "b":
        return found.astype(np.float32)
    if found.dtype.kind not in "fiu":
        raise refused(f"it has the type {str(found.dtype)[:60]}: give numbers", what)
    if found.dtype.kind == "f" and found.dtype.itemsize != 4:
        return found.astype(np.float64)
    return found.astype(np.float64) if found.dtype.kind in "iu" and what != "lengths" else found


# ---- what sequences have besides


def _besides(document: Document, count: int, static: Any, ids: Any) -> dict[str, Any]:
    return {
        "static": _static(document, count, static),
        "static_columns": columns_of(document.static),
        **names(count, ids),
    }


def names(count: int, ids: Any) -> dict[str, Any]:
    """The ids of so many sequences, as `Given` has them."""
    if ids is None:
        return {"ids": tuple(map(str, range(count))), "has_ids": False}
    found = (ids,) if isinstance(ids, str) else tuple(map(str, ids))
    if len(found) != count:
        raise refused(
            f"give an id for each sequence: {counted(count, 'sequence')} came with {counted(len(found), 'id')}"
        )
    return {"ids": found, "has_ids": True}


def _static(document: Document, count: int, static: Any) -> NDArray[np.float64] | None:
    wanted = document.static
    if not wanted:
        if static is not None:
            raise refused("the model reads no values of whole sequences: leave static out")
        return None
    listed = f"{len(wanted):,} of each sequence: {_listed(wanted)}"
    if static is None:
        raise refused(f"the model reads values of whole sequences: give static, {listed}")
    found = _numbers(static, "static").astype(np.float64)
    if found.ndim == 1 and count == 1:
        found = found[None]
    if found.shape != (count, len(wanted)):
        raise refused(f"static has the shape {found.shape}: give {(count, len(wanted))}, {listed}")
    return found


def _future(document: Document, count: int, future: Any) -> NDArray[np.float64] | None:
    forecast = document.forecast
    if forecast is None or not forecast.known_future:
        if future is not None:
            raise refused("the model knows nothing ahead of time: leave future out")
        return None
    shape = (count, forecast.horizon, len(forecast.known_future))
    listed = ", ".join(forecast.known_future)
    if future is None:
        raise refused(
            f"the model reads what is known of the next {counted(forecast.horizon, 'step')}: give future, {listed}"
        )
    found = _numbers(future, "future").astype(np.float64)
    if found.ndim == 2 and count == 1:
        found = found[None]
    if found.shape != shape:
        raise refused(f"future has the shape {found.shape}: give {shape}, the next steps of {listed}")
    return found


# ---- values


def _check_numbers(given: Given, x: NDArray[Any], features: Sequence[Feature]) -> None:
    """x (steps, features) of all sequences."""
    with np.errstate(invalid="ignore"):
        beyond = np.abs(x) > _LARGEST
    if beyond.any():
        step, place = (int(each) for each in np.argwhere(beyond)[0])
        raise refused(
            f"{features[place].shown} is {x[step, place]:g}, and a network computes with numbers up to "
            f"{_LARGEST:.2g}; give NaN if the value is unknown",
            given.named(_of_steps(given, [step])),
        )
    for place, feature in enumerate(features):
        if feature.words is None:
            continue
        known = x[:, place][~np.isnan(x[:, place])]
        bad = known[(known < 0) | (known > len(feature.words)) | (known != np.floor(known))]
        if bad.size:
            raise refused(
                f"{feature.shown} is {bad[0]:g}, and it has {len(feature.words):,} words: give the number of a word "
                "from 1 on, or 0 for another word"
            )


def _check_gaps(document: Document, given: Given) -> None:
    """Raises InputInvalid where a value is missing that is read."""
    columns: set[str] = set()
    sequences: set[int] = set()
    missing = np.isnan(given.x)
    if document.forecast is not None:  # of the steps before the last ones only fillings are read
        ends = np.cumsum(given.lengths)[:, None]
        read = np.zeros(len(missing), np.bool_)
        read[ends - 1 - np.arange(document.forecast.lookback)] = True
        missing &= read[:, None]
    if missing.any():
        columns |= {document.features[place].name for place in np.flatnonzero(missing.any(axis=0))}
        sequences |= set(_of_steps(given, np.flatnonzero(missing.any(axis=1))).tolist())
    if given.static is not None and np.isnan(given.static).any():
        absent = np.isnan(given.static)
        columns |= {document.static[place].name for place in np.flatnonzero(absent.any(axis=0))}
        sequences |= set(np.flatnonzero(absent.any(axis=1)).tolist())
    if given.future is not None and np.isnan(given.future).any():
        columns.add("future")
        sequences |= set(np.flatnonzero(np.isnan(given.future).any(axis=(1, 2))).tolist())
    if columns:
        raise refused(
            f"values are missing ({', '.join(sorted(columns))}), and the model was trained without gaps: fill them, or "
            "train a model with data.missing set to forward, mean or linear",
            given.named(sorted(sequences)),
        )


def _of_steps(given: Given, steps: Any) -> Rows:
    """The sequences of some steps."""
    found = np.searchsorted(np.cumsum(given.lengths), np.asarray(steps, np.int64), side="right")
    return np.unique(found).astype(np.int64)


def _listed(features: Sequence[Feature]) -> str:
    shown = [each.name for each in features[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(features) - _SHOWN:,} more" if len(features) > _SHOWN else "")


def _wanted(document: Document) -> str:
    return f"arrays (steps, {len(document.given):,})"


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"
