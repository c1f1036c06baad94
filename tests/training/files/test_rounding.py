"""Numbers that float32 cannot tell apart are kept as they are until they have been scaled."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline.files import rounding
from loopline.files.rounding import Sample, lost
from numpy.typing import NDArray
from safetensors.torch import load_file

from services.errors import DatasetInvalid
from services.training.data import part_of, prepare
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.model import SequenceModel
from services.training.spec import parse
from services.training.spec.fields import Split
from services.training.splits import split_rows
from tests.training.building import document, events, make_run, spec_for, trained

RNG = np.random.default_rng(0)
NOW = 1_700_000_000_000  # milliseconds since 1970


def timestamps(samples: int = 200, length: int = 8, step: int = 1_000, within: int = 20_000) -> NDArray[np.int64]:
    """Sequences that begin within so many milliseconds and go on in steps of 1 or 3 times so many."""
    starts = NOW + np.random.default_rng(1).integers(0, within, samples)
    pace = step * np.where(np.arange(samples) % 2, 3, 1)
    return starts[:, None] + pace[:, None] * np.arange(length)


def read(**arrays: Any) -> Arrays:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return npz.read(file)


PACES = np.arange(200) % 2
WALK = 50_000 + np.cumsum(RNG.standard_normal((20, 50, 1)) * 20, axis=1)
HELD: dict[str, NDArray[Any]] = {
    "normal": RNG.standard_normal((30, 20, 3)),
    "far by a little": 100 + RNG.standard_normal((30, 20, 1)),
    "prices": WALK,
    "small integers": RNG.integers(0, 1 << 20, (30, 20, 2)),
    "settled": 1 - np.exp(-np.arange(400.0) / 30)[None, :, None] * np.ones((5, 1, 1)),
    "slow": np.sin(np.linspace(0, 3, 1_000))[None, :, None] * np.ones((4, 1, 1)),
    "constant": np.full((10, 5, 1), 0.1),
    "constant to rounding": np.where(np.arange(10)[:, None, None] % 2, 0.3, 0.1 + 0.2) * np.ones((1, 5, 1)),
    "one constant far away": np.full((10, 5, 1), 1.7e12),
    "wide": np.exp(RNG.standard_normal((30, 20, 1)) * 5),
    "zeros": np.zeros((3, 4, 2)),
}


@pytest.mark.parametrize("name", HELD)
def test_what_float32_holds_is_left_alone(name: str) -> None:
    values = HELD[name]
    assert lost(values.astype(np.float64)) == []
    found = read(x=values, y=np.arange(len(values)) % 2)
    assert found.x.dtype == np.float32
    assert np.array_equal(found.x, values.astype(np.float32))


LOST: dict[str, NDArray[Any]] = {
    "milliseconds": timestamps()[:, :, None],
    "the same as floats": timestamps()[:, :, None].astype(np.float64),
    "constant in each sequence": np.repeat(NOW + 7 * np.arange(50), 6).reshape(50, 6, 1),
    "a little around much": 1e9 + RNG.standard_normal((30, 20, 1)),
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", LOST)
def test_what_float32_does_not_hold_is_kept_in_full(name: str, order: Any) -> None:
    values = LOST[name]
    assert lost(values.astype(np.float64)) == [0]
    beside = np.concatenate((RNG.standard_normal(values.shape), values, np.zeros(values.shape)), axis=2)
    assert lost(beside) == [1]
    for x in (values, beside):
        found = read(x=np.array(x, order=order), y=np.arange(len(x)) % 2)
        assert found.x.dtype == np.float64
        assert np.array_equal(found.x, x)
        assert npz.summarise(found).bytes == x.size * 4


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(100, 7), (3, 5_000, 40), (500, 3, 2), (2, 2, 10_000)])
def test_a_sample_holds_whole_sequences_as_they_are_in_the_file(shape: tuple[int, ...], order: Any) -> None:
    values = np.array(np.arange(np.prod(shape)).reshape(shape), order=order)
    sample = Sample(shape, values.dtype, fortran_order=order == "F")
    flat = values.ravel(order=order)
    for start in range(0, len(flat), 777):
        sample.see(start, flat[start : start + 777])
    samples, steps, _ = sample.shape
    rows = np.linspace(0, shape[0] - 1, samples).astype(int)
    assert np.array_equal(sample.values, values.reshape(shape[0], shape[1], -1)[rows, :steps])
    assert 2 <= samples <= 64
    assert sample.values.size <= 2 * rounding._ELEMENTS


def test_timestamps_are_learned_from_once_they_are_scaled() -> None:
    """Of 200 sequences float32 makes nearly all constant: which pace they have cannot be seen any more."""
    x = timestamps()
    rounded = x.astype(np.float32).astype(np.float64)
    assert (np.ptp(rounded, axis=1) == 0).sum() > 150
    arrays = read(x=x, y=PACES)
    changes: dict[str, Any] = {"training": {"epochs": 12, "optimizer": {"name": "adam", "lr": 0.02}}}
    for scaling in ("standard", "minmax"):
        run = make_run(arrays, **changes, data={"scaling": scaling})
        assert run.data.train.x.dtype == torch.float32
        assert all(len(sequence.unique()) > 1 for sequence in run.data.train.x)
        assert max(epoch["validation_accuracy"] or 0 for epoch in trained(run)) > 0.95, scaling


def test_without_scaling_numbers_are_cast_as_ever() -> None:
    x = timestamps()
    arrays = read(x=x, y=PACES)
    found = prepare(arrays, spec_for(arrays, data={"scaling": "none", "split": {"validation": 0.0}}))
    assert np.array_equal(found.train.x[:, :, 0].numpy(), x.astype(np.float32))


def test_the_steps_of_each_sequence_behind_its_end_stay_zero() -> None:
    lengths = 1 + np.arange(200) % 8
    arrays = read(x=timestamps(), y=PACES, lengths=lengths)
    assert arrays.x.dtype == np.float64
    found = part_of(
        arrays, np.arange(200), prepare(arrays, spec_for(arrays, data={"scaling": "standard"})).preprocessing
    )
    behind = np.arange(8) >= lengths[:, None]
    assert not found.x[torch.from_numpy(behind)].any()


def test_a_sequence_stays_in_its_part_whatever_precision_is_kept() -> None:
    x = np.concatenate((timestamps()[:, :, None], RNG.standard_normal((200, 8, 1))), axis=2)
    full = read(x=x, y=PACES)
    narrow = Arrays(x=full.x.astype(np.float32), lengths=full.lengths, y=full.y)
    split = Split(validation=0.2, test=0.3, method="content")
    for name, rows in split_rows(full, split).items():
        assert np.array_equal(rows, split_rows(narrow, split)[name])


def test_data_that_was_kept_in_full_is_written_and_read_again() -> None:
    arrays = read(x=timestamps(), y=1.7e9 + np.arange(200.0))
    file = io.BytesIO()
    npz.write(file, arrays)
    again = npz.read(file)
    assert np.array_equal(again.x, arrays.x)
    assert np.array_equal(again.y, arrays.y)


@pytest.mark.parametrize(
    ("y", "dtype"),
    [
        (np.arange(200) / 4, np.float32),
        (RNG.standard_normal(200), np.float64),
        (1.7e9 + np.arange(200.0), np.float64),
        (np.stack([NOW + np.arange(200), np.arange(200)], axis=1), np.float64),
        (RNG.standard_normal((200, 2)).astype(np.float32), np.float32),
    ],
)
def test_targets_are_kept_in_full_where_float32_does_not_hold_them(y: NDArray[Any], dtype: Any) -> None:
    found = read(x=timestamps(), y=y).y
    assert found.dtype == dtype
    assert np.array_equal(found, y)


@pytest.mark.parametrize("beyond", [1e39, -1e300, np.inf, np.nan])
def test_numbers_beyond_float32_are_refused_in_whatever_precision(beyond: float) -> None:
    x = timestamps().astype(np.float64)
    x[3, 2] = beyond
    with pytest.raises(DatasetInvalid, match="row 3 holds NaN or infinity"):
        read(x=x, y=PACES)
    y = 1.7e9 + np.arange(200.0)
    y[5] = beyond
    with pytest.raises(DatasetInvalid, match="row 5 holds NaN or infinity"):
        read(x=timestamps(), y=y)


def test_a_model_of_timestamps_is_applied_by_hand_as_its_card_says(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=timestamps(), y=PACES, split=np.arange(200) // 2 % 2 * 2)
    changes: dict[str, Any] = {"training": {"epochs": 12, "optimizer": {"name": "adam", "lr": 0.02}}}
    data = {"scaling": "standard", "split": {"validation": 0.25, "test": "given"}}
    order = {"data": str(tmp_path / "data.npz"), "directory": str(tmp_path / "out"), "device": "cpu"}
    [*_, told] = events({**order, "spec": parse(document(**changes, data=data)).document()})
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    model = SequenceModel(parse(card["spec"]).architecture, 1, 2).eval()
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    test = np.arange(200) // 2 % 2 == 1
    x = ((timestamps()[test][:, :, None] - card["scaling"]["shift"]) / card["scaling"]["scale"]).astype(np.float32)
    with torch.no_grad():
        right = model(torch.from_numpy(x)).argmax(dim=1).numpy() == PACES[test]
    assert right.mean() == told["result"]["metrics"]["test_accuracy"] > 0.95
