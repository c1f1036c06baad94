"""A folder that is not that of a model, or that this version cannot read, is refused in a sentence."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline import ModelUnusable, load
from loopline.prediction.document import parsed
from loopline.version import VERSION
from safetensors.numpy import load_file, save_file

from services.training.export import network
from services.training.export.graph import Graph
from services.training.export.preprocessing import Steps
from tests.client.prediction.cases import Trained

Model = Callable[[str], Trained]
CLIENT = Path(__file__).parent.parent.parent.parent / "client"


@pytest.fixture
def folder(trained_model: Model, tmp_path: Path) -> Path:
    """A copy of a model that may be damaged."""
    found = trained_model("plain").folder
    return Path(shutil.copytree(found, tmp_path / "model"))


def rewritten(folder: Path, **changes: Any) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_model_says_what_it_is(trained_model: Model) -> None:
    model = load(trained_model("attention").folder)
    assert (model.task, model.classes, model.targets) == ("classification", (0, 1), ())
    assert [column.name for column in model.features] == ["pulse", "load", "mode", "drift"]
    assert model.features[2].categories == ("\0", "off", "on", "wait")
    assert [column.name for column in model.static] == ["age", "sex"]
    assert load(trained_model("values").folder).targets == ("height", "id")
    assert repr(load(trained_model("attention").folder, "torch")).endswith("classification, lstm of 5, with torch>")


def test_model_json_says_what_a_model_was_made_of_and_with(trained_model: Model) -> None:
    case = trained_model("plain")
    card = load(case.folder).card
    expected = {
        "loopline": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": None,
        "numpy": np.__version__,
        "device": f"cpu ({platform.machine()})",
    }
    assert expected.items() <= card["made_with"].items()
    lengths = case.arrays.lengths[case.run.data.rows["train"]]
    assert card["data"]["lengths"] == {"shortest": lengths.min(), "longest": lengths.max()}
    assert card["spec"]["training"]["seed"] == case.run.training.seed
    schema = load(trained_model("quantiles").folder).card["data"]["schema"]
    assert schema == {"group": ["place"], "order": "hour", "target": ["load"], "known_future": ["wind"]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "has no model.json: give the folder of a downloaded model"),
        ("{", "cannot be read"),
        ("[1]", "is not the description of a model"),
        ('{"format": "loopline-model/99"}', "has the format loopline-model/99, and this version of loopline reads up"),
        ('{"format": "loopline-model/1"}', "cannot be understood"),
        ('{"format": "other/1"}', "is not the description of a model"),
    ],
)
def test_a_folder_without_a_model_is_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelUnusable, match=r"model\.json") as error:
        load(tmp_path)
    assert sentence in str(error.value)


def test_weights_that_are_missing_damaged_or_of_another_network_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "head.bias": weights["head.bias"][:-1]}, path)
    with pytest.raises(ModelUnusable, match=r"does not fit model.json \(head.bias\)"):
        load(folder, "numpy")
    save_file({**weights, "surprise": weights["head.bias"]}, path)
    with pytest.raises(ModelUnusable, match=r"does not fit model.json \(surprise\)"):
        load(folder, "torch")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelUnusable, match="cannot be read"):
        load(folder, "numpy")
    path.unlink()
    with pytest.raises(ModelUnusable, match="cannot be read"):
        load(folder, "torch")


def test_older_models_are_read(folder: Path, trained_model: Model) -> None:
    asked = trained_model("plain").asked(load(folder))
    expected = load(folder, "torch").predict(**asked)
    card = json.loads((folder / "model.json").read_text())
    older = {key: card[key] for key in card if key not in ("data", "made_with", "target_scaling", "static_size")}
    (folder / "model.json").write_text(json.dumps({**older, "format": "loopline-model/1"}))
    found = load(folder, "torch").predict(**asked)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_an_unknown_backend_or_device_is_refused(folder: Path) -> None:
    with pytest.raises(ModelUnusable, match="there is no backend 'jax': give one of onnxruntime, torch, numpy"):
        load(folder, "jax")  # type: ignore[arg-type]
    with pytest.raises(ModelUnusable, match="torch cannot compute on 'tpu9'"):
        load(folder, device="tpu9")
    for backend, sentence in (
        ("numpy", "numpy cannot compute on 'cuda'"),
        ("onnxruntime", "onnxruntime computes on the"),
    ):
        with pytest.raises(ModelUnusable, match=sentence):
            load(folder, backend, device="cuda")  # type: ignore[arg-type]


def test_an_onnx_file_that_is_missing_damaged_or_of_another_model_is_refused(
    folder: Path, trained_model: Model
) -> None:
    path = folder / "model.onnx"
    assert load(folder).backend == "onnxruntime"
    shutil.copy(trained_model("values").folder / "model.onnx", path)
    with pytest.raises(ModelUnusable, match="is of another model than"):
        load(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelUnusable, match="cannot be read"):
        load(folder)
    path.unlink()
    with pytest.raises(ModelUnusable, match="use torch or numpy"):
        load(folder, "onnxruntime")
    assert load(folder).backend == "torch"


def test_a_file_of_the_first_format_that_continues_texts_gives_the_same_answers(
    trained_model: Model, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained_model("next").folder, tmp_path / "model"))
    asked = ["ab", "d, cab"]
    expected = load(folder, "onnxruntime").predict(asked).probabilities
    document = parsed(json.loads((folder / "model.json").read_text()))
    g = Graph()
    steps = Steps(g.input("x", np.float32, ("batch", "time", 1)), g.input("lengths", np.int64, ("batch",)))
    of_each_step = replace(document.architecture, pooling="none")
    outputs = network.answered(g, load_file(folder / "model.safetensors"), of_each_step, steps, None)
    g.output("probabilities", g.op("Softmax", outputs, axis=2), np.float32, ("batch", "time", "words"))
    old = g.model("loopline", "", {"format": "loopline-onnx/1", "task": "next_step"})
    (folder / "model.onnx").write_bytes(old)
    np.testing.assert_allclose(load(folder, "onnxruntime").predict(asked).probabilities, expected, rtol=1e-5)


def test_what_is_not_installed_is_named(folder: Path) -> None:
    code = """if True:
        import sys
        for name in {missing!r}:
            sys.modules[name] = None
        import loopline
        try:
            print(loopline.load({folder!r}).backend)
        except (ImportError, loopline.ModelUnusable) as error:
            print(error)
    """

    def said(*missing: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code.format(missing=missing, folder=str(folder))],
            env={"PYTHONPATH": str(CLIENT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    assert said("numpy") == 'loopline.load needs numpy: pip install "loopline[predict]"'
    assert said("safetensors", "onnxruntime") == (
        'Reading model.safetensors needs the package safetensors: pip install "loopline[predict]".'
    )
    assert said("torch", "onnxruntime") == "numpy"
