"""What may have been meant otherwise is told in a sentence; what is ordinary is not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.training.files import npz, suspicions
from services.training.files.npz import Arrays
from services.training.files.suspicion import Suspicion
from services.training.spec import loads, parse
from services.training.spec.data_warnings import for_job
from tests.training.building import classes, document, mixed, of_many_lengths, values

ROOT = Path(__file__).parents[3]


def read(**arrays: Any) -> Arrays:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return npz.read(file)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def normal(samples: int = 60, length: int = 12, features: int = 3) -> NDArray[np.float64]:
    return rng().standard_normal((samples, length, features))


def kinds(samples: int = 60) -> NDArray[np.int64]:
    return np.arange(samples) % 3


def codes(arrays: Arrays) -> set[str]:
    return {suspicion.code for suspicion in suspicions.of(arrays)}


def padded(share: float = 0.7, value: float = 0.0, *, front: bool = False) -> NDArray[np.float64]:
    x = normal()
    for row in range(int(share * len(x))):
        end = 3 + row % 7
        x[row, end:] = value
        if front:
            x[row] = np.roll(x[row], len(x[row]) - end, axis=0)
    return x


def waves(samples: int, features: int, length: int) -> NDArray[np.float64]:
    """Smooth series: (samples, features, length), swapped."""
    phase = rng().uniform(0, 6, (samples, features, 1))
    return np.sin(np.linspace(0, 9, length) + phase) + rng().uniform(-3, 3, (samples, features, 1))


def windows(stride: int, length: int = 12, features: int = 2) -> NDArray[np.float64]:
    series = np.cumsum(rng().standard_normal((60 * stride + length, features)), axis=0)
    return np.stack([series[start : start + length] for start in range(0, 60 * stride, stride)])


def with_feature(feature: Any) -> NDArray[np.float64]:
    x = normal()
    x[:, :, 1] = feature
    return x


ONE_HOT = np.eye(3, dtype=np.int64)[kinds()]
STARTS = 1_700_000_000_000 + rng().integers(0, 10**9, 60)[:, None]

FOUND: dict[str, tuple[dict[str, Any], set[str], tuple[str, ...]]] = {
    "a class a step": (
        {"x": normal(), "y": rng().integers(0, 4, (60, 12)).astype(np.float32)},
        {"y_as_long_as_x"},
        ("12 whole numbers a sequence, as many as x has steps", "12 values to predict", "y.astype(np.int64)"),
    ),
    "values a step": (
        {"x": normal(), "y": rng().integers(0, 5000, (60, 12))},
        {"many_tags"},
        ("one for each step of x, and is taken as a class for each step", "y.astype(np.float32)"),
    ),
    "a label a step": (
        {"x": normal(), "y": rng().integers(0, 2, (60, 12))},
        {"y_as_long_as_x"},
        ("12 yes-or-no labels of the whole sequence", "y[:, :, None]"),
    ),
    "whole numbers in columns": ({"x": normal(), "y": rng().integers(0, 4, (60, 3))}, {"whole_y"}, ("3 columns",)),
    "one-hot": ({"x": normal(), "y": ONE_HOT}, {"one_hot_y"}, ("3 separate yes-or-no labels", "y.argmax(axis=1)")),
    "one-hot floats": (
        {"x": normal(), "y": ONE_HOT.astype(np.float32)},
        {"one_hot_y"},
        ("3 values to predict", "y.argmax(axis=1)"),
    ),
    "labels as floats": (
        {"x": normal(), "y": rng().integers(0, 2, (60, 4)).astype(float)},
        {"labels_as_floats"},
        ("4 values to predict", "y.astype(np.int64)"),
    ),
    "whole floats": (
        {"x": normal(), "y": kinds().astype(np.float32)},
        {"whole_floats_y"},
        ("3 different whole numbers as floats", "y.astype(np.int64)", "training.loss: mse"),
    ),
    "milliseconds": (
        {"x": with_feature(STARTS + 1_000_000 * np.arange(12)), "y": kinds()},
        {"float32_x"},
        ("Feature 1 of x holds numbers as large as 1.7e+12", "data.scaling to standard"),
    ),
    "seconds a few in a month": (
        {"x": with_feature(STARTS + 10 * np.arange(12)), "y": kinds()},
        {"float32_x", "flat_x"},
        ("Within a sequence feature 1 of x varies",),
    ),
    "1e12": ({"x": with_feature(1e12 * normal()[:, :, 0]), "y": kinds()}, {"large_x"}, ("Feature 1 of x reaches",)),
    "an id": (
        {"x": with_feature(np.arange(100_000, 100_060)[:, None]), "y": kinds()},
        {"large_x", "id_x"},
        ("Feature 1 of x is another whole number in each sequence", "leave them out"),
    ),
    "zeros at the end": (
        {"x": padded(), "y": kinds()},
        {"padded_x"},
        ("70% of the sequences end in zeros", "`lengths`"),
    ),
    "zeros at the beginning": (
        {"x": padded(front=True), "y": kinds()},
        {"padded_x"},
        ("70% of the sequences begin in zeros", "at the beginning of its row"),
    ),
    "another padding": ({"x": padded(value=-1.0), "y": kinds()}, {"padded_x"}, ("end in one and the same step",)),
    "swapped axes": (
        {"x": waves(60, 4, 100), "y": kinds()},
        {"swapped_axes"},
        ("4 steps of 100 features", "x.transpose(0, 2, 1)"),
    ),
    "windows": ({"x": windows(1), "y": kinds()}, {"overlapping_windows"}, ("overlapping windows", "`split`")),
    "windows by four": ({"x": windows(4), "y": kinds()}, {"overlapping_windows"}, ()),
    "windows in disorder": ({"x": rng().permutation(windows(2)), "y": kinds()}, {"overlapping_windows"}, ()),
    "targets far away": ({"x": normal(), "y": 50 + normal()[:, 0, 0]}, {"far_y"}, ("y lies around 50",)),
    "targets beyond float32": (
        {"x": normal(), "y": 1.7e9 + 9 * normal()[:, 0, 0]},
        {"float32_y"},
        ("1.7e+09, whose differences float32 cannot hold",),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_may_have_been_meant_otherwise_is_told(name: str) -> None:
    arrays, expected, words = FOUND[name]
    found = suspicions.of(read(**arrays))
    assert {suspicion.code for suspicion in found} == expected
    for word in words:
        assert word in " ".join(suspicion.message for suspicion in found)
    for suspicion in found:
        assert suspicion.message.endswith(".")
        assert len(suspicion.message) < 400


BINARY_STEPS = rng().integers(0, 2, (60, 12, 1))
ORDINARY: dict[str, dict[str, Any]] = {
    "classes": {"x": normal(), "y": kinds()},
    "words": {"x": normal(), "y": np.array(["up", "down", "up"])[kinds()]},
    "two classes": {"x": normal(), "y": kinds() > 0},
    "values": {"x": normal(), "y": normal()[:, 0, 0]},
    "several values": {"x": normal(), "y": normal()[:, 0]},
    "a value a step": {"x": normal(), "y": normal()[:, :, 0]},
    "labels": {"x": normal(), "y": rng().integers(0, 2, (60, 5))},
    "few values": {"x": normal(4), "y": np.array([0.7, 0.8, 0.75, 0.9])},
    "few labels": {"x": normal(5), "y": np.array([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1]])},
    "as many labels as steps": {"x": normal(60, 5), "y": rng().integers(0, 2, (60, 5))},
    "float32": {"x": normal().astype(np.float32), "y": kinds()},
    "one feature": {"x": normal()[:, :, 0], "y": kinds()},
    "one step": {"x": normal(60, 1), "y": kinds()},
    "two rows": {"x": normal(2), "y": [0, 1]},
    "small integers": {"x": rng().integers(-100, 100, (60, 12, 3)), "y": kinds()},
    "yes or no steps": {"x": BINARY_STEPS, "y": kinds()},
    "tokens": {"x": rng().integers(0, 30, (60, 12, 1)), "y": kinds()},
    "one-hot tokens": {"x": np.eye(5)[rng().integers(0, 5, (60, 12))], "y": kinds()},
    "sparse counts": {"x": rng().poisson(0.1, (60, 12, 1)), "y": kinds()},
    "clipped at zero": {"x": np.maximum(normal(), 0), "y": kinds()},
    "lengths": {"x": padded(), "y": kinds(), "lengths": np.where(np.arange(60) < 42, 3 + np.arange(60) % 7, 12)},
    "a few that end early": {"x": padded(0.1), "y": kinds()},
    "zeros": {"x": np.zeros((60, 12, 2)), "y": kinds()},
    "one constant feature": {"x": with_feature(1.0), "y": kinds()},
    "one feature constant in each sequence": {"x": with_feature(normal()[:, :1, 0]), "y": kinds()},
    "ages": {"x": with_feature(rng().integers(18, 90, (60, 1))), "y": kinds()},
    "walks": {"x": np.cumsum(normal(), axis=1), "y": kinds()},
    "waves": {"x": waves(60, 4, 100).transpose(0, 2, 1), "y": kinds()},
    "many features": {"x": normal(60, 4, 100), "y": kinds()},
    "spectra that change slowly": {
        "x": np.cumsum(np.cumsum(normal(60, 5, 64), axis=1), axis=2) / 20,
        "y": kinds(),
    },
    "disjoint windows": {"x": windows(12), "y": kinds()},
    "each row twice": {"x": np.repeat(normal(30), 2, axis=0), "y": kinds()},
    "windows of yes and no": {
        "x": np.lib.stride_tricks.sliding_window_view(BINARY_STEPS.ravel(), 12)[:60],
        "y": kinds(),
    },
}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_ordinary_is_told_nothing(name: str) -> None:
    assert codes(read(**ORDINARY[name])) == set()


@pytest.mark.parametrize("seed", range(20))
def test_random_data_of_each_kind_are_told_nothing(seed: int) -> None:
    of_seed = np.random.default_rng(seed)
    samples, length, features = (int(of_seed.integers(low, 80)) for low in (12, 1, 1))
    x = of_seed.standard_normal((samples, length, features))
    for y in (
        of_seed.integers(0, 3, samples),
        of_seed.standard_normal(samples),
        of_seed.standard_normal((samples, 4)),
        of_seed.integers(0, 2, (samples, 4)),
    ):
        assert codes(Arrays(x.astype(np.float32), np.full(samples, length), y)) == set()


def test_the_examples_are_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codes(npz.read(ROOT / "data" / "japanese-vowels.npz")) == set()
    assert codes(npz.synthetic(1000, 50, 10, 2, seed=0)) == set()
    _, _, snippet = (ROOT / "examples" / "README.md").read_text().partition("```python\n")
    monkeypatch.chdir(tmp_path)
    exec(snippet.partition("```")[0], {})  # noqa: S102 - our own text
    assert codes(npz.read(tmp_path / "mine.npz")) == set()
    for arrays in (classes(), values(), of_many_lengths(classes())):
        assert codes(arrays) == set()


def test_each_kind_of_job_is_told_what_applies_to_it() -> None:
    def applies(name: str, **changes: Any) -> list[str]:
        arrays = read(**FOUND[name][0])
        found = [suspicion.document() for suspicion in suspicions.of(arrays)]
        summary = npz.summarise(arrays)
        return for_job(found, parse(document(**changes)) if changes else None, summary)

    for name in ("one-hot", "whole floats", "a class a step"):
        loss = "bce" if name == "one-hot" else "mse"
        assert len(applies(name)) == len(applies(name, training={"epochs": 1})) == 1
        assert applies(name, training={"loss": loss}) == []
    assert len(applies("1e12")) == len(applies("1e12", data={"scaling": "none"})) == 1
    assert applies("1e12", data={"scaling": "standard"}) == applies("milliseconds", data={"scaling": "minmax"}) == []
    assert len(applies("seconds a few in a month", data={"scaling": "standard"})) == 1
    assert applies("targets far away") == applies("targets beyond float32", data={"scaling": "none"}) == []
    assert len(applies("targets far away", data={"target_scaling": "none"})) == 1
    assert len(applies("windows")) == len(applies("windows", data={"split": {"validation": 0.2}})) == 1
    assert len(applies("windows", data={"split": {"validation": "given", "test": 0.1}})) == 1
    assert applies("windows", data={"split": {"validation": "given", "test": "given"}}) == []
    assert applies("windows", data={"split": {"validation": 0.0}}) == []


def test_missing_values_are_told_to_a_job_that_refuses_them() -> None:
    found = [Suspicion("missing_values", "unfilled", "`load` has gaps")]
    summary = npz.summarise(classes())
    assert for_job(found, None, summary) == for_job(found, parse(document(data={"scaling": "none"})), summary)
    assert for_job(found, None, summary) == ["`load` has gaps"]
    assert for_job(found, parse(document(data={"missing": "linear"})), summary) == []


def test_a_forecast_needs_no_target_and_fills_rows_that_are_missing() -> None:
    found = [Suspicion("no_target", "no_task", "no target"), Suspicion("gaps", "rows", "rows are missing")]
    summary, said = npz.summarise(classes()), ["no target", "rows are missing"]
    forecast = parse(document(task={"name": "forecast", "horizon": 2}))
    filled = parse(document(task={"name": "forecast", "horizon": 2}, data={"missing": "forward"}))
    assert for_job(found, None, summary) == for_job(found, parse(document()), summary) == said
    assert for_job(found, forecast, summary) == said[1:]
    assert for_job(found, filled, summary) == []
    assert for_job(found, parse(document(task={"name": "next_step"})), summary) == said[1:]


def test_windows_with_a_split_of_their_own_are_not_split_at_random() -> None:
    arrays = read(x=windows(1), y=kinds(), split=np.repeat([0, 1], [48, 12]))
    assert for_job(suspicions.of(arrays), None, npz.summarise(arrays)) == []
    spec = parse(document(data={"split": {"validation": 0.2}}))
    assert len(for_job(suspicions.of(arrays), spec, npz.summarise(arrays))) == 1


def test_the_specs_of_the_examples_are_told_nothing() -> None:
    arrays = npz.read(ROOT / "data" / "japanese-vowels.npz")
    spec = parse(loads((ROOT / "examples" / "vowels.yaml").read_bytes()))
    assert for_job(suspicions.of(arrays), spec, npz.summarise(arrays)) == []


def test_gaps_hide_nothing_and_numbers_of_words_say_nothing() -> None:
    arrays = mixed(60)
    arrays.x[:, :, 2] *= 5_000.0  # words of a large vocabulary
    assert suspicions.of(arrays) == []
    arrays.x[:, :, 1] *= 100.0
    assert [found.code for found in suspicions.of(arrays)] == ["large_x"]
