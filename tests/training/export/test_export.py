"""model.onnx answers as the model does in PyTorch, whatever the network, the preprocessing and the task are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from loopline.prediction.document import parsed
from numpy.typing import NDArray

from services.errors import SpecInvalid
from services.training import checkpoint, continuation, data, windows
from services.training.export import checked, model, network
from services.training.export.checked import CannotExport
from services.training.files.npz import Arrays
from services.training.loop import Run
from tests.properties import examples
from tests.training.building import (
    classes,
    forecast_spec,
    hourly,
    make_run,
    mixed,
    of_many_lengths,
    of_texts,
    same,
    spec_for,
    tagged,
    texts,
    trained,
    values,
    weights_of,
)
from tests.training.preprocessing.test_properties import data_for, preparations, with_tags

ROOT = Path(__file__).parents[3]
POOLINGS = ["last", "final", "mean", "max", "attention"]
SHAPES = ("patch", "stride", "max_length", "cut")
"""Fields that leave no answer for each step."""


def lively(run: Run) -> Run:
    """With larger weights than a fresh network has, and statistics of batch normalisation, so that errors show."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.mul_(1.5)
        for name, buffer in run.model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("var") else -0.5))
    return run


def exported(run: Run) -> bytes:
    """The file, which was compared with PyTorch."""
    return checked.exported(checkpoint.card(run), run.model.state_dict(), run.data)


def asked(file: bytes, **given: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = checked.session_of(file)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def properties(file: bytes) -> Mapping[str, str]:
    return {each.key: each.value for each in onnx.load_from_string(file).metadata_props}


def check_padding(file: bytes, arrays: Arrays, run: Run) -> None:
    """Each sequence gets the same answer alone, without padding, and in a batch with more padding."""
    given = checked.given(arrays, parsed(checkpoint.card(run)))
    more = np.full_like(given["x"], 1e30)
    together = asked(file, **{**given, "x": np.concatenate((given["x"], more), axis=1)})
    for row, length in enumerate(arrays.lengths[:4]):
        alone = asked(file, **{name: each[[row]] for name, each in given.items()} | {"x": given["x"][[row], :length]})
        for name, answers in alone.items():
            by_step = answers.ndim > 1 and name in ("probabilities", "labels") and answers.shape[1] == length
            wanted = together[name][[row], :length] if by_step else together[name][[row]]
            np.testing.assert_allclose(answers, wanted, rtol=1e-4, atol=1e-5)


def test_the_example_of_the_documents_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(exported(make_run(classes(features=12))))
    monkeypatch.chdir(tmp_path)
    codes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), re.DOTALL)
    exec(codes[0], {})  # noqa: S102
    assert re.fullmatch(r"\[[012], [012]\]\n", capsys.readouterr().out)
    (tmp_path / "model" / "model.onnx").write_bytes(exported(continuing("lstm", 2)))
    exec(codes[1], {})  # noqa: S102
    written = capsys.readouterr().out
    assert (written[:5], len(written)) == ("to be", 5 + 100 + 1)
    assert set(written) <= set("to be or not to be\nthat is the question")


# ---- networks


@pytest.mark.parametrize("cell", ["rnn", "relu", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_every_network_and_pooling_agrees(cell: str, bidirectional: bool, layers: int) -> None:
    architecture: dict[str, Any] = {"cell": cell, "bidirectional": bidirectional, "num_layers": layers}
    if cell == "relu":
        architecture |= {"cell": "rnn", "nonlinearity": "relu"}
    arrays = of_many_lengths(classes())
    for pooling in POOLINGS:
        for batch_norm in (False, True):
            changes = {**architecture, "pooling": pooling, "batch_norm": batch_norm}
            file = exported(lively(make_run(arrays, architecture=changes)))
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    tags = lively(make_run(tagged(), architecture={**architecture, "pooling": "none", "batch_norm": True}))
    check_padding(exported(tags), tagged(), tags)


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    cell = draw(st.sampled_from(["tanh", "relu", "lstm", "gru"]))
    return {
        **({"cell": cell} if cell in ("lstm", "gru") else {"cell": "rnn", "nonlinearity": cell}),
        "bidirectional": draw(st.booleans()),
        "batch_norm": draw(st.booleans()),
        "num_layers": draw(st.integers(1, 2)),
        "hidden_size": 4,
    }


def with_target(arrays: Arrays, target: str) -> Arrays:
    """The same sequences, with something else to predict."""
    if target == "labels":
        return replace(arrays, y=np.stack((arrays.y, 1 - arrays.y, arrays.y), axis=1))
    if target == "values":
        return replace(arrays, y=np.stack((arrays.y * 40.0 + 900.0, np.linspace(-1, 1, len(arrays.y))), axis=1))
    return with_tags(arrays) if target == "tags" else arrays


@examples(40)
@given(
    preparation=preparations(),
    architecture=architectures(),
    pooling=st.sampled_from(POOLINGS),
    target=st.sampled_from(["classes", "tags", "labels", "values"]),
    target_scaling=st.sampled_from(["standard", "none"]),
)
def test_every_preprocessing_agrees(
    preparation: dict[str, Any], architecture: dict[str, Any], pooling: str, target: str, target_scaling: str
) -> None:
    arrays = with_target(data_for(preparation), target)
    if target == "tags":
        preparation, pooling = {key: value for key, value in preparation.items() if key not in SHAPES}, "none"
    if target == "values":
        preparation = {**preparation, "target_scaling": target_scaling}
    run = lively(make_run(arrays, data=preparation, architecture={**architecture, "pooling": pooling}))
    rows = run.data.rows["train"]
    check_padding(exported(run), arrays.chosen(rows), run)


def test_numbers_that_float32_cannot_hold_come_in_float64() -> None:
    arrays = values()
    far = replace(arrays, x=arrays.x.astype(np.float64) + 1.7e12, static=np.arange(24.0)[:, None] + 1e9)
    far = replace(far, y=arrays.y.astype(np.float64) + 1e9, static_columns=spec_columns("begin"))
    run = lively(make_run(far, data={"scaling": "standard"}))
    file = exported(run)
    kinds = {each.name: each.type for each in checked.session_of(file).get_inputs()}
    assert kinds == {"x": "tensor(double)", "lengths": "tensor(int64)", "static": "tensor(double)"}
    given = checked.given(far, parsed(checkpoint.card(run)))
    found = asked(file, **given)["values"]
    assert found.dtype == np.float64
    assert np.abs(found - 1e9).max() < 100  # and not rounded to multiples of 64
    assert len(np.unique(found[:, 0])) == 24


def spec_columns(*names: str) -> Any:
    from loopline.files.sequences import Column

    return tuple(map(Column, names))


# ---- tasks


def test_classes_have_probabilities_and_a_label() -> None:
    arrays = replace(of_many_lengths(classes()), y=np.array(["c", "a", "b"] * 8))
    run = lively(make_run(arrays))
    file = exported(run)
    found = asked(file, x=arrays.x, lengths=arrays.lengths)
    assert found["probabilities"].shape == (24, 3)
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1.0, rtol=1e-5)
    assert (found["label"] == found["probabilities"].argmax(axis=1)).all()
    told = properties(file)
    assert (told["format"], told["task"], json.loads(told["classes"])) == (
        "loopline-onnx/1",
        "classification",
        ["a", "b", "c"],
    )
    assert json.loads(told["features"]) == [{"name": "0"}, {"name": "1"}, {"name": "2"}]


def test_two_classes_as_one_yes_or_no_are_two_classes() -> None:
    arrays = classes(kinds=2)
    run = make_run(arrays, training={"loss": "bce", "epochs": 8})
    trained(run)
    assert run.data.output_size == 1
    found = asked(exported(run), x=arrays.x, lengths=arrays.lengths)
    assert (found["label"] == found["probabilities"].argmax(axis=1)).all()
    assert {0, 1} == set(found["label"].tolist())


def test_labels_have_a_probability_each() -> None:
    arrays = replace(classes(), y=np.eye(3, dtype=np.int64)[np.arange(24) % 3] | np.eye(3, dtype=np.int64)[0])
    file = exported(lively(make_run(arrays, training={"loss": "bce"})))
    assert asked(file, x=arrays.x, lengths=arrays.lengths).keys() == {"probabilities"}
    assert properties(file)["task"] == "multilabel"


@pytest.mark.parametrize("logit", [-60.0, -20.0, -14.0, -8.0, 8.0, 14.0, 20.0, 60.0])
@pytest.mark.parametrize("several", [True, False])
def test_the_probabilities_of_a_sure_model_agree(logit: float, several: bool) -> None:
    arrays = classes(kinds=2)
    arrays = replace(arrays, y=np.eye(2, dtype=np.int64)[arrays.y]) if several else arrays
    run = make_run(arrays, training={"loss": "bce"})
    with torch.no_grad():
        run.model.head.weight.mul_(0.1)
        run.model.head.bias.fill_(logit)
        wanted = run.model.eval()(torch.from_numpy(arrays.x)).sigmoid().numpy()
    found = asked(exported(run), x=arrays.x, lengths=arrays.lengths)["probabilities"]
    np.testing.assert_allclose(found if several else found[:, 1:], wanted, rtol=1e-4)


@pytest.mark.parametrize("scaled", [True, False])
def test_values_are_in_the_unit_of_the_data(scaled: bool) -> None:
    arrays = values()
    arrays = replace(arrays, y=arrays.y * 1000 + 5000)
    run = lively(make_run(arrays, data={"target_scaling": "standard" if scaled else "none"}))
    found = asked(exported(run), x=arrays.x, lengths=arrays.lengths)["values"]
    run.model.eval()
    with torch.no_grad():
        wanted = run.data.target_scaling.undone(run.model(torch.from_numpy(arrays.x)).numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert (np.abs(found).max() > 1000) == scaled


def test_tags_have_a_label_at_each_step() -> None:
    arrays = tagged()
    found = asked(exported(lively(make_run(arrays))), x=arrays.x, lengths=arrays.lengths)
    assert (found["probabilities"].shape, found["labels"].shape) == ((24, 7, 3), (24, 7))


@pytest.mark.parametrize("read", [{}, {"patch": 3, "stride": 2, "max_length": 5, "cut": "start"}])
def test_texts_come_as_numbers_of_the_vocabulary(read: dict[str, Any]) -> None:
    arrays = texts()
    run = lively(make_run(arrays, data=read, architecture={"bidirectional": True}))
    file = exported(run)
    inputs = run.data.preprocessing.applied(arrays)
    x = np.zeros((40, inputs.lengths.max(), inputs.x.shape[1]), np.float32)
    x[np.arange(x.shape[1]) < inputs.lengths[:, None]] = inputs.x
    found = asked(file, x=x, lengths=inputs.lengths)
    run.model.eval()
    with torch.no_grad():
        wanted = run.model(torch.from_numpy(x), torch.from_numpy(inputs.lengths)).softmax(dim=1)
    np.testing.assert_allclose(found["probabilities"], wanted.numpy(), rtol=1e-4)
    told = json.loads(properties(file)["text"])
    assert run.data.preprocessing.text is not None
    assert tuple(told["entries"]) == run.data.preprocessing.text.entries
    assert (told["patch"], told["stride"]) == (read.get("patch", 1), read.get("stride", 1))


def continuing(cell: str, layers: int) -> Run:
    arrays = of_texts(["to be or not to be", "that is the question"] * 6, np.empty((12, 0), np.int64))
    architecture = {"pooling": "none", "cell": cell, "num_layers": layers}
    spec = spec_for(arrays, task="next_step", training={"bptt_steps": 8}, architecture=architecture)
    return lively(Run(spec, continuation.prepare(arrays, spec)))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_text_that_is_read_token_by_token_has_the_answers_of_pytorch_to_the_whole(cell: str, layers: int) -> None:
    run = continuing(cell, layers)
    file = exported(run)
    assert run.data.preprocessing.text is not None
    rows = run.data.preprocessing.text.rows
    x = (np.arange(18).reshape(2, 9, 1) * 5 % (rows - 1) + 1).astype(np.float32)
    zeros = np.zeros((layers * (2 if cell == "lstm" else 1), 2, run.spec.architecture.hidden_size), np.float32)
    with torch.no_grad():
        wanted = run.model.eval()(torch.from_numpy(x), None).view(2, 9, rows - 1).softmax(dim=2).numpy()
    state = zeros
    for step in range(9):
        found = asked(file, x=x[:, [step]], lengths=np.ones(2, np.int64), state=state)
        assert found.keys() == {"probabilities", "state_out"}
        np.testing.assert_allclose(found["probabilities"], wanted[:, step], rtol=1e-4)
        state = found["state_out"]
        assert state.shape == zeros.shape

    x[1, 4:] = np.nan  # a shorter one beside it
    whole = asked(file, x=x, lengths=np.array([9, 4]), state=zeros)
    np.testing.assert_allclose(whole["probabilities"], np.stack((wanted[0, 8], wanted[1, 3])), rtol=1e-4)
    np.testing.assert_allclose(whole["state_out"][:, 0], state[:, 0], rtol=1e-4, atol=1e-6)
    two = asked(file, x=x[:, :2], lengths=np.array([2, 2]), state=zeros)["state_out"]
    rest = asked(file, x=x[:, 2:], lengths=np.array([7, 2]), state=two)
    np.testing.assert_allclose(rest["state_out"], whole["state_out"], rtol=1e-4, atol=1e-6)


def test_a_wrong_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = continuing("lstm", 2)
    built = model.network.continued

    def swapped(g: Any, weights: Any, a: Any, steps: Any, static: Any, state: Any) -> Any:
        return built(g, weights, a, steps, static, g.columns(state, [2, 3, 0, 1], 0))  # c for h

    monkeypatch.setattr(model.network, "continued", swapped)
    with pytest.raises(CannotExport, match="do not agree"):
        exported(run)


# ---- forecasts


FORECASTS: list[dict[str, Any]] = [
    {},
    {"task": {"quantiles": [0.1, 0.5, 0.9]}},
    {"data": {"scaling_over": "per_sequence"}},
    {"data": {"scaling_over": "per_sequence", "target_scaling": "none", "missing": "mean"}},
    {"data": {"differences": "append", "missing_mask": True, "target_scaling": "none"}},
    {"data": {"missing": "drop", "scaling": "minmax"}, "architecture": {"bidirectional": True, "pooling": "mean"}},
]


@pytest.mark.parametrize("changes", FORECASTS)
@pytest.mark.parametrize("known", [(), ("heat", "wind")])
def test_forecasts_agree(changes: dict[str, Any], known: tuple[str, ...]) -> None:
    arrays = hourly([60, 40, 50], known=known, gaps=True, target=("load",) if known else ("load", "heat"))
    spec = forecast_spec(arrays, **changes)
    run = lively(Run(spec, windows.prepare(arrays, spec)))
    file = exported(run)
    told = properties(file)
    assert (told["lookback"], told["horizon"]) == ("5", "3")
    assert json.loads(told.get("known_future", "[]")) == list(known)
    names = {each.name for each in checked.session_of(file).get_inputs()}
    by_series = "scaling_over" in changes.get("data", {})
    assert names == {"x", "lengths"} | ({"series"} if by_series else set()) | ({"known_future"} if known else set())
    (first, *_) = checked.cases(parsed(checkpoint.card(run)), run.model.state_dict(), run.data)
    found = asked(file, **first.given)["values"]
    assert found.shape[1:] == (3, 1 if known else 2, *((3,) if "task" in changes else ()))
    if "task" in changes:
        assert (np.diff(found, axis=3) >= 0).all()


@st.composite
def forecasts(draw: st.DrawFn) -> dict[str, Any]:
    """Changes to the spec of a forecast."""
    missing = draw(st.sampled_from(["forward", "mean", "drop"]))
    data = {
        "missing": missing,
        "missing_mask": missing != "drop" and draw(st.booleans()),
        "differences": draw(st.sampled_from([None, "append", "replace"])),
        "scaling": draw(st.sampled_from(["standard", "minmax", "robust"])),
        "scaling_over": draw(st.sampled_from(["train", "per_sequence"])),
        "target_scaling": draw(st.sampled_from(["standard", "none"])),
    }
    pooling = draw(st.sampled_from(POOLINGS))
    quantiles = draw(st.sampled_from([None, [0.5], [0.1, 0.5, 0.9]]))
    return {
        "data": data,
        "architecture": {**draw(architectures()), "pooling": pooling},
        **({"task": {"quantiles": quantiles}} if quantiles else {}),
    }


@examples(20)
@given(changes=forecasts(), known=st.sampled_from([(), ("wind",)]), both=st.booleans())
def test_every_forecast_agrees(changes: dict[str, Any], known: tuple[str, ...], both: bool) -> None:
    arrays = hourly([60, 40, 50], known=known, gaps=True, target=("load", "heat") if both else ("load",))
    try:
        spec = forecast_spec(arrays, **changes)
    except SpecInvalid:  # what does not go together
        reject()
    exported(lively(Run(spec, windows.prepare(arrays, spec))))


def test_a_forecast_reads_only_the_end_of_a_series() -> None:
    arrays = hourly([60, 40, 50])
    spec = forecast_spec(arrays)
    run = lively(Run(spec, windows.prepare(arrays, spec)))
    file = exported(run)
    whole = asked(file, x=arrays.x[:1], lengths=np.array([60]))["values"]
    np.testing.assert_allclose(asked(file, x=arrays.x[:1, 55:], lengths=np.array([5]))["values"], whole, rtol=1e-6)
    other = arrays.x[:1].copy()
    other[:, 57] += 1.0
    assert np.abs(asked(file, x=other, lengths=np.array([60]))["values"] - whole).max() > 1e-3


def test_an_unknown_series_is_scaled_as_all_of_them_together() -> None:
    arrays = hourly([60, 40, 50])
    spec = forecast_spec(arrays, data={"scaling_over": "per_sequence"})
    run = lively(Run(spec, windows.prepare(arrays, spec)))
    file = exported(run)
    ids = json.loads(properties(file)["series"])
    assert ids == ["a", "b", "c"]
    x = np.repeat(arrays.x[:1], 4, axis=0)
    found = asked(file, x=x, lengths=np.full(4, 60), series=np.arange(4))["values"]
    assert len(np.unique(found.round(6), axis=0)) == 4


# ---- missing values


@pytest.mark.parametrize("missing", ["refuse", "drop"])
@pytest.mark.parametrize("where", ["x", "static"])
def test_a_missing_value_that_nothing_fills_gives_no_answer(missing: str, where: str) -> None:
    arrays = mixed(40, gaps=False)
    run = lively(make_run(arrays, data={"missing": missing}))
    given = checked.given(arrays, parsed(checkpoint.card(run)))
    given[where][3, 0] = np.nan
    found = asked(exported(run), **given)
    assert np.isnan(found["probabilities"]).all(axis=1).nonzero()[0].tolist() == [3]
    assert (found["label"] == -1).nonzero()[0].tolist() == [3]


def test_a_word_that_training_does_not_have_is_0() -> None:
    arrays = mixed(40, gaps=False)
    run = lively(make_run(arrays, data={"categories": "embedding"}))
    given = checked.given(arrays, parsed(checkpoint.card(run)))
    assert set(given["x"][:, 0, 2].tolist()) == {1.0, 2.0, 3.0}
    told = json.loads(properties(exported(run))["features"])
    assert told[2] == {"name": "mode", "words": ["off", "on", "wait"]}
    given["x"][:, :, 2] = np.where(np.isnan(given["x"][:, :, 2]), np.nan, 0.0)
    assert np.isfinite(asked(exported(run), **given)["probabilities"]).all()


# ---- the check


@pytest.mark.parametrize(("cell", "gates"), [("gru", (0, 1, 2)), ("lstm", (0, 1, 2, 3)), ("lstm", (0, 3, 2, 1))])
def test_a_wrong_order_of_gates_is_found(cell: str, gates: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(network.GATES, cell, gates)
    with pytest.raises(CannotExport, match="do not agree: one of its logarithms of probabilities is"):
        exported(lively(make_run(of_many_lengths(classes()), architecture={"cell": cell})))


@pytest.mark.parametrize("make", [values, tagged, texts])
def test_other_weights_are_found(make: Any) -> None:
    run = lively(make_run(make(), architecture={"hidden_size": 8}))
    card = checkpoint.card(run)
    weights = weights_of(run)
    file = model.build(parsed(card), {name: each.numpy() for name, each in weights.items()})
    checked.check(file, checked.cases(parsed(card), weights, run.data))
    weights["rnn.weight_hh_l0"] *= 1.1
    with pytest.raises(CannotExport, match="do not agree"):
        checked.check(file, checked.cases(parsed(card), weights, run.data))


def test_a_file_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "MOST_BYTES", 100)
    with pytest.raises(CannotExport, match=r"^its weights take 0\.0 GB, and the most is"):
        exported(make_run())


def test_equal_models_give_equal_files_and_draw_nothing() -> None:
    run = make_run(mixed(40), data={"missing": "linear"})
    before, weights = torch.get_rng_state(), weights_of(run)
    file = exported(run)
    assert exported(make_run(mixed(40), data={"missing": "linear"})) == file
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights_of(run), weights)


def test_the_sample_is_of_training_and_raw() -> None:
    arrays = of_many_lengths(classes(60, length=200))
    prepared = data.prepare(arrays, spec_for(arrays, data={"scaling": "standard"}))
    sample = prepared.sample
    assert sample is not None
    assert sample.x.shape == (len(sample), 64, 3)
    rows = prepared.rows["train"]
    for one in sample.x_in_memory:
        valid = one[np.abs(one).sum(axis=1) > 0]
        assert any(np.array_equal(arrays.x[row, : len(valid)], valid) for row in rows)
