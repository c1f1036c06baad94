"""Steps that stay in their file: the same numbers as in memory, in little memory, and nothing left running."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopline.files import store

from services.errors import DatasetInvalid
from services.training import checkpoint, data, in_file, run
from services.training.data import Part, batches_of, order_of, prepare
from services.training.files import npz, reading, steps
from services.training.files.npz import Arrays, Limits
from services.training.files.steps import FileSteps
from services.training.in_file import InFile
from services.training.loop import Run, fit
from services.training.messages import read_request
from services.training.preprocessing import later
from services.training.spec import Spec
from tests import forking
from tests.properties import examples
from tests.training.building import (
    as_sequences,
    classes,
    document,
    mixed,
    of_many_lengths,
    same,
    spec_for,
    tagged,
    timeless,
    trained,
    values,
    weights_of,
)
from tests.training.preprocessing.test_properties import ARCHITECTURES, SHAPES, data_for, preparations, with_tags

CPU = torch.device("cpu")


def both(arrays: Arrays, folder: Path) -> tuple[Arrays, Arrays]:
    """The data of one file in memory, and in its file."""
    path = folder / "data"
    store.write(path, as_sequences(arrays, times=None))
    in_file = reading.read(path, Limits(), in_file_from=0)
    assert isinstance(in_file.x, FileSteps)
    return reading.read(path, Limits()), in_file


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[Arrays, dict[str, Any]]:
    """Data, and fields of a spec that go together with it."""
    preparation = draw(preparations())
    arrays = data_for(preparation, seed=draw(st.integers(0, 5)))
    features = draw(st.sampled_from([[0, 1, 2, 3], [0, 1, 3], [0], [2]]))
    names = [(arrays.features or ())[place] for place in features]
    arrays = replace(arrays, x=arrays.x_in_memory[:, :, features], features=tuple(names))
    if features == [2]:
        preparation |= {"differences": None}
    if 2 not in features:
        preparation |= {"categories": "one_hot"}
    if draw(st.booleans()):  # one length; padding becomes data
        arrays = replace(arrays, lengths=np.full(len(arrays), arrays.x.shape[1]))
    if draw(st.booleans()):
        arrays = replace(arrays, static=None, static_columns=(), weights=None)
    if draw(st.booleans()):
        arrays = replace(arrays, x=arrays.x_in_memory.astype(np.float64) * 1e9)
        if 2 in features:
            arrays.x_in_memory[:, :, features.index(2)] /= 1e9
    architecture = draw(ARCHITECTURES)
    target = draw(st.sampled_from(["classes", "values", "tags"]))
    if target == "tags":
        arrays = with_tags(arrays)
        preparation = {key: value for key, value in preparation.items() if key not in SHAPES}
        architecture = {**architecture, "pooling": "none"}
    elif target == "values":
        y = np.random.default_rng(3).standard_normal((len(arrays), 2))
        arrays = replace(arrays, y=y)
    bucketing = draw(st.booleans())
    training = {"batch_size": draw(st.sampled_from([4, 7])), "epochs": 2}
    return arrays, {"data": {**preparation, "bucketing": bucketing}, "architecture": architecture, "training": training}


def small_windows(patch: pytest.MonkeyPatch) -> None:
    """Makes an epoch of little data one of several windows, and a block of two or three sequences."""
    patch.setattr(data, "WINDOW_BYTES", 1500)
    patch.setattr(in_file, "MAPPED_BYTES", 800)
    for module in (steps, later):
        patch.setattr(module, "AT_ONCE", 70)


@examples(25)
@given(made=data_sets())
def test_data_in_a_file_trains_to_the_same_numbers_and_weights(made: tuple[Arrays, dict[str, Any]]) -> None:
    arrays, changes = made
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        small_windows(patch)
        runs = []
        for each in both(arrays, Path(folder)):
            spec = spec_for(each, **changes)
            runs.append(Run(spec, prepare(each, spec)))
            trained(runs[-1])
    in_memory, in_file = runs
    assert isinstance(in_file.train_part, InFile)
    assert in_file.data.preprocessing == in_memory.data.preprocessing
    assert timeless(in_file.state.history) == timeless(in_memory.state.history)
    assert same(weights_of(in_file), weights_of(in_memory))


@pytest.mark.parametrize("over", ["train", "per_sequence"])
@pytest.mark.parametrize("scaling", ["standard", "robust", "minmax"])
@pytest.mark.parametrize("features", [[0], [0, 1], [0, 2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("full", [True, False], ids=["full", "cut"])
def test_long_sequences_are_prepared_to_the_same_bits(
    full: bool, features: list[int], scaling: str, over: str, tmp_path: Path
) -> None:
    """The order of additions differs with the layout in memory, and matters only in sums of many numbers."""
    arrays = mixed(30, 300)
    if full:
        arrays = replace(arrays, lengths=np.full(30, 300))
    x = arrays.x_in_memory[:, :, features] * np.random.default_rng(0).uniform(0.1, 7.0, (30, 300, 1))
    if 2 in features:
        x[:, :, features.index(2)] = arrays.x_in_memory[:, :, 2]
    chosen = tuple((arrays.features or ())[place] for place in features)
    prepared = []
    for each in both(replace(arrays, x=x, features=chosen), tmp_path):
        changes = {"missing": "linear", "scaling": scaling, "scaling_over": over, "split": {"validation": 0.2}}
        prepared.append(prepare(each, spec_for(each, data=changes)))
    in_memory, in_file = prepared
    assert in_file.preprocessing == in_memory.preprocessing
    order = order_of(1, seed=0, samples=len(in_memory.train), batch_size=5)
    for one, other in zip(*(batches_of(each.train, order, CPU) for each in prepared), strict=True):
        assert torch.equal(one.x, other.x)


def of_every_kind(name: str) -> Arrays:
    rng = np.random.default_rng(1)
    groups = np.array([f"person {row // 3}" for row in range(60)])
    if name == "values":
        found = of_many_lengths(values(60))
        return replace(found, y=found.y.astype(np.float64), groups=groups)
    if name == "tags":
        return replace(tagged(60), groups=groups)
    if name == "marked":
        return replace(
            classes(60), split=(np.arange(60) % 4 // 2).astype(np.int8) * (1 + np.arange(60) % 2).astype(np.int8)
        )
    return replace(of_many_lengths(classes(60)), groups=groups, weights=rng.uniform(0.5, 2.0, 60))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("classes", {"method": "content"}),
        ("classes", {"method": "group"}),
        ("values", {"method": "random"}),
        ("tags", {"method": "content"}),
        ("marked", {"method": "given", "validation": "given", "test": "given"}),
    ],
)
def test_the_whole_result_is_the_same(name: str, split: dict[str, Any], tmp_path: Path) -> None:
    """Metrics of all parts, the baseline, the reference profile, the gate and what has shifted since another model."""
    store.write(tmp_path / "before", as_sequences(of_every_kind(name)))
    arrays = of_every_kind(name)
    store.write(tmp_path / "now", as_sequences(replace(arrays, x=arrays.x_in_memory * np.float32(1.5))))
    spec = document(
        data={"scaling": "standard", "split": {"validation": 0.2, "test": 0.3, **split}},
        retrain={"model": "m", "warm_start": None},
        architecture={"pooling": "none" if name == "tags" else "last"},
    )
    results = []
    for kind, threshold in (("memory", 1 << 40), ("file", 0)):
        known = None
        for night in ("before", "now"):
            out = tmp_path / kind / night
            asked = {"spec": Spec.model_validate(spec).document(), "data": str(tmp_path / night), "directory": str(out)}
            asked |= {
                "resume": None,
                "device": "cpu",
                "suspect": True,
                "baselines": {"warm_start": None, "against": known},
            }
            order = read_request({"request": "order", **asked})
            told = [*run.events(order, in_file_from=threshold)]
            known = {"model": "m@1", "directory": str(out)}
        card = json.loads((out / "model.json").read_text())
        history = timeless(json.loads((out / "history.json").read_text())["epochs"])
        results.append(
            (card, history, (out / "model.safetensors").read_bytes(), [n for n in told if hasattr(n, "message")])
        )
    assert results[0] == results[1]
    assert results[0][0]["retrain"]["gate"]["comparison"] is not None
    assert results[0][0]["retrain"]["drift"] is not None


@examples(8)
@given(made=data_sets(), updates=st.integers(1, 14))
def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_is_the_same_run(
    made: tuple[Arrays, dict[str, Any]], updates: int
) -> None:
    arrays, changes = made
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        small_windows(patch)
        _, there = both(arrays, Path(folder))
        spec = spec_for(there, **changes)
        whole, part, again = (Run(spec, prepare(there, spec)) for _ in range(3))
        trained(whole)
        for _ in islice(fit(part), updates):
            pass
        checkpoint.save(part, Path(folder))
        assert checkpoint.resume(again, Path(folder)) is not None
        trained(again)
    assert timeless(again.state.history) == timeless(whole.state.history)
    assert same(weights_of(again), weights_of(whole))


def test_the_test_split_decides_nothing_that_is_fitted(tmp_path: Path) -> None:
    fitted = []
    for spoiled in (False, True):
        arrays = replace(mixed(40), split=(np.arange(40) % 3).astype(np.int8))
        if spoiled:
            arrays.x_in_memory[2::3, 0] = (1e6, -1e6, 1.0, 1e6)
            assert arrays.weights is not None
            arrays.weights[2::3] = 100.0
        folder = tmp_path / str(spoiled)
        folder.mkdir()
        _, there = both(arrays, folder)
        data_spec = {"missing": "mean", "scaling": "robust", "split": {"validation": "given", "test": "given"}}
        prepared = prepare(there, spec_for(there, data=data_spec))
        assert prepared.train.weights is not None
        fitted.append((prepared.preprocessing, prepared.train.weights.tolist()))
    assert fitted[0] == fitted[1]


@examples(25)
@given(seed=st.integers(0, 1000), features=st.sampled_from([1, 3]), full=st.booleans())
def test_steps_in_a_file_read_like_an_array(seed: int, features: int, full: bool) -> None:
    rng = np.random.default_rng(seed)
    arrays = classes(30, features=features)
    arrays = arrays if full else of_many_lengths(arrays, seed=seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "AT_ONCE", int(rng.integers(1, 300)))
        here, there = both(arrays, Path(folder))
        x, found = here.x_in_memory, there.x
        assert isinstance(found, FileSteps)
        assert (found.shape, found.dtype, found.size, found.nbytes) == (x.shape, x.dtype, x.size, x.nbytes)
        rows = rng.permutation(30)[: int(rng.integers(0, 30))]
        np.testing.assert_array_equal(found[:], x)
        np.testing.assert_array_equal(found[rows], x[rows])
        np.testing.assert_array_equal(found[rows, :, :1], x[rows, :, :1])
        np.testing.assert_array_equal(found[:9, 0, :2], x[:9, 0, :2])
        np.testing.assert_array_equal(
            found[int(rows[0]) if len(rows) else 3, 2:, :1], x[int(rows[0]) if len(rows) else 3, 2:, :1]
        )
        np.testing.assert_array_equal(found.chosen(rows)[:], x[rows])
        steps_of = (rng.random(len(rows)) * here.lengths[rows]).astype(np.int64)
        np.testing.assert_array_equal(found.at(rows, steps_of), x[rows, steps_of])


def test_a_file_that_is_cut_off_while_it_is_used_is_an_error_and_no_crash(tmp_path: Path) -> None:
    _, there = both(classes(60, length=200), tmp_path)
    spec = spec_for(there)
    prepared = prepare(there, spec)
    with (tmp_path / "data").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(OSError, match="has become shorter while it was in use"):
        trained(Run(spec, prepared))


def test_no_thread_is_left_when_an_epoch_is_not_finished(tmp_path: Path) -> None:
    _, there = both(classes(60), tmp_path)
    spec = spec_for(there)
    one = Run(spec, prepare(there, spec))
    training = fit(one)
    next(training)
    assert any(thread.name.startswith("loopline-data") for thread in threading.enumerate())
    training.close()
    del training
    assert not any(thread.name.startswith("loopline-data") for thread in threading.enumerate())


def test_a_part_can_be_moved_into_memory_as_a_whole(tmp_path: Path) -> None:
    """As it is onto a GPU with room for it."""
    for arrays in (classes(40), of_many_lengths(classes(40)), mixed(40)):
        here, there = both(arrays, tmp_path)
        changes = {"data": {"missing": "linear", "scaling": "standard"}}
        kept, read = (prepare(each, spec_for(each, **changes)).train for each in (here, there))
        moved = read.to(CPU)
        assert type(moved) is Part
        assert torch.equal(moved.x, kept.x)
        assert (read.nbytes, read.row_bytes, read.peak()) == (kept.nbytes, kept.row_bytes, kept.peak())
        order = order_of(1, seed=0, samples=len(kept), batch_size=6)
        for one, other in zip(batches_of(kept, order, CPU), batches_of(moved, order, CPU), strict=True):
            assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("arrays", [classes(60), of_many_lengths(classes(60)), tagged(60)], ids=["full", "cut", "tags"])
def test_an_npz_that_is_not_compressed_stays_in_its_file_too(arrays: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    x = arrays.x_in_memory.copy()
    x[np.arange(x.shape[1]) >= arrays.lengths[:, None]] = np.nan  # padding may be anything
    npz.write(path, replace(arrays, x=x))
    here, there = (reading.read(path, Limits(), in_file_from=threshold) for threshold in (None, 0))
    assert isinstance(there.x, FileSteps)
    np.testing.assert_array_equal(there.x_in_memory, here.x_in_memory)
    assert npz.summarise(there) == npz.summarise(here)
    changes = {"data": {"scaling": "standard"}, "architecture": {"pooling": "none" if arrays.y.ndim == 3 else "last"}}
    runs = []
    for each in (here, there):
        spec = spec_for(each, **changes)
        runs.append(Run(spec, prepare(each, spec)))
        trained(runs[-1])
    assert isinstance(runs[1].train_part, InFile)
    assert timeless(runs[1].state.history) == timeless(runs[0].state.history)
    assert same(weights_of(runs[1]), weights_of(runs[0]))


@pytest.mark.parametrize("spoil", ["bytes", "nan", "lengths"])
def test_an_npz_that_stays_in_its_file_is_checked_as_one_that_is_read(spoil: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    arrays = of_many_lengths(classes(60))
    if spoil == "nan":
        arrays.x_in_memory[7, 0, 1] = np.nan
    if spoil == "lengths":
        arrays.lengths[3] = 99
    npz.write(path, arrays)
    if spoil == "bytes":
        content = bytearray(path.read_bytes())
        content[500] ^= 1
        path.write_bytes(content)
    said = []
    for threshold in (None, 0):
        with pytest.raises(DatasetInvalid) as refused:
            reading.read(path, Limits(), in_file_from=threshold)
        said.append((refused.value.message, refused.value.problems))
    assert said[0] == said[1]


@pytest.mark.parametrize("how", ["compressed", "float64", "fortran"])
def test_an_npz_whose_x_is_not_as_in_memory_is_read_as_a_whole(how: str, tmp_path: Path) -> None:
    arrays = classes(60)
    x = arrays.x_in_memory.astype(np.float64) if how == "float64" else arrays.x_in_memory
    save = np.savez_compressed if how == "compressed" else np.savez
    save(tmp_path / "data.npz", x=np.asfortranarray(x) if how == "fortran" else x, y=arrays.y)
    found = reading.read(tmp_path / "data.npz", Limits(), in_file_from=0)
    np.testing.assert_array_equal(found.x_in_memory, arrays.x)
    assert isinstance(found.x, np.ndarray)


def test_a_small_data_set_is_read_as_a_whole(tmp_path: Path) -> None:
    store.write(tmp_path / "data", as_sequences(classes()))
    found = reading.read(tmp_path / "data", Limits(), in_file_from=steps.IN_FILE_FROM)
    assert isinstance(found.x, np.ndarray)
    assert npz.summarise(found) == npz.summarise(reading.read(tmp_path / "data", Limits(), in_file_from=0))


CHILD = """
import json
import sys
from pathlib import Path
from services.training import data, messages, run

data.WINDOW_BYTES = 8 << 20

def resident(name):
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name)]
    return int(line.split()[1]) * 1024

run.prepare_process(1)
run.warm(run.device_of("cpu"))
order = messages.read_request(json.load(sys.stdin))
before = resident("VmRSS")
told = [*run.events(order, in_file_from=0)]
assert isinstance(told[-1], messages.Finished), told[-1]
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_takes_little_memory_whatever_the_size_of_the_data(tmp_path: Path) -> None:
    """From a file of 200 MB to a model, with small windows."""
    samples, length, features = 10_000, 500, 10
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (samples * length, features))
    x[:] = np.random.default_rng(0).standard_normal((1000, features), np.float32)[np.arange(len(x)) % 1000]
    arrays = Arrays(x=x[:1].reshape(1, 1, features), lengths=np.full(1, 1), y=np.arange(1))
    more = {"lengths": np.full(samples, length), "y": np.arange(samples) % 2, "classes": (0, 1)}
    store.write(tmp_path / "data", replace(as_sequences(arrays), x=x, **more))
    asked = {"request": "order", "resume": None, "device": "cpu", "data_sha256": "0" * 64}
    spec = document(
        training={"epochs": 1, "batch_size": 64}, data={"scaling": "standard", "patch": 50, "split": {"test": 0.2}}
    )
    asked |= {"spec": Spec.model_validate(spec).document(), "data": str(tmp_path / "data"), "directory": str(tmp_path)}
    child = forking.run(
        [sys.executable, "-c", CHILD], torch=True, input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    assert (tmp_path / "data").stat().st_size > 200e6
    assert int(child.stdout) < 180e6
