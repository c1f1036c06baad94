"""examples/README.md: a model is of use without Loopline, in the few lines that it shows."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline.files import formats, store
from loopline.files.build import build
from loopline.files.inference import infer
from loopline.files.schema import Schema
from torch import nn

from services.training.files import npz
from services.training.run import read_arrays
from services.training.spec import loads, parse
from services.training.splits import split_rows
from tests.training.building import events

ROOT = Path(__file__).parents[2]
VOWELS = ROOT / "data" / "japanese-vowels.npz"


def test_the_weather_is_forecast_better_than_by_any_naive_forecast(tmp_path: Path) -> None:
    """With a quarter of the epochs and half of the windows of the example."""
    table = formats.read(ROOT / "data" / "weather.csv.gz", tmp_path)
    inferred = infer(table, Schema(target=("temp_f",)))
    store.write(tmp_path / "weather", build(table, inferred.schema))
    spec = loads((ROOT / "examples" / "weather.yaml").read_bytes())
    spec["training"]["epochs"] = 3
    spec["task"]["stride"] = 12
    order = {
        "spec": parse(spec).document(),
        "data": str(tmp_path / "weather"),
        "directory": str(tmp_path / "model"),
        "device": "cpu",
    }
    told = [*events(order)]
    result = told[-1]["result"]
    plain = result["baseline"]
    assert plain["is_beaten"]
    assert len(plain["others"]) == 2
    naive = [each["test_mase"] for each in (plain["metrics"], *plain["others"].values())]
    assert result["metrics"]["test_mase"] < min(naive)
    steps = result["details"]["test"]["horizon"]["mae"]
    assert len(steps) == 24
    assert steps[0] < steps[-1]


def test_the_vowels_train_the_same_from_the_text_of_their_archive(tmp_path: Path) -> None:
    """The archive has two `.ts` files with six decimals, as are written here. The model is the same, bit for bit."""
    arrays = npz.read(VOWELS)
    with zipfile.ZipFile(tmp_path / "vowels.zip", "w") as archive:
        for part, name in ((0, "TRAIN"), (2, "TEST")):
            head = "@problemName JapaneseVowels\n@timeStamps false\n@classLabel true 1 2 3 4 5 6 7 8 9\n@data\n"
            assert arrays.split is not None
            lines = [_series(arrays, row) for row in np.flatnonzero(arrays.split == part)]
            archive.writestr(f"JapaneseVowels_{name}.ts", head + "".join(lines))
    spec = loads((ROOT / "examples" / "vowels.yaml").read_bytes())
    spec["training"]["epochs"] = 3
    weights, histories = [], []
    for path in (VOWELS, tmp_path / "vowels.zip"):
        order = {"spec": spec, "data": str(path), "directory": str(tmp_path / path.stem), "device": "cpu"}
        told = [*events(order)]
        weights.append((tmp_path / path.stem / "model.safetensors").read_bytes())
        histories.append([loss for event in told if event["event"] == "steps" for loss in event["loss"]])
        assert told[-1]["result"]["metrics"]["test_accuracy"] > 0.5
    assert weights[0] == weights[1]
    assert histories[0] == histories[1]


def _series(arrays: npz.Arrays, row: int) -> str:
    """A line of a `.ts` file."""
    steps = arrays.x[row, : arrays.lengths[row]]
    return ":".join(",".join(f"{value:.6f}" for value in column) for column in steps.T) + f":{arrays.y[row]}\n"


def test_the_sea_is_forecast_better_than_by_the_year_before(tmp_path: Path) -> None:
    """The error of the year before is computed here once more, from the file alone."""
    path = ROOT / "data" / "sea.csv"
    spec = loads((ROOT / "examples" / "sea.yaml").read_bytes())
    order = {"spec": parse(spec).document(), "data": str(path), "directory": str(tmp_path / "model"), "device": "cpu"}
    result = [*events(order)][-1]["result"]
    celsius = np.array([float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]])
    first = len(celsius) - round(0.15 * len(celsius))
    windows = range(first, len(celsius) - 6 + 1)
    year_before = np.mean([np.abs(celsius[one : one + 6] - celsius[one - 12 : one - 6]) for one in windows])
    plain = result["baseline"]
    assert plain["answer"] == "the value 12 steps before"
    assert plain["metrics"]["test_mae"] == pytest.approx(year_before, rel=1e-5)
    assert round(plain["metrics"]["test_mae"], 2) == 0.95  # as examples/README.md says
    assert round(plain["others"]["the last value"]["test_mae"], 2) == 2.59
    assert result["metrics"]["test_mae"] == pytest.approx(0.68, abs=0.03)
    assert plain["is_beaten"]


def test_names_are_told_apart_better_than_by_their_last_letter(tmp_path: Path) -> None:
    """With a third of the epochs of the example."""
    spec = loads((ROOT / "examples" / "names.yaml").read_bytes())
    spec["training"]["epochs"] = 7
    path = ROOT / "data" / "names.txt"
    order = {"spec": parse(spec).document(), "data": str(path), "directory": str(tmp_path / "model"), "device": "cpu"}
    result = [*events(order)][-1]["result"]
    arrays = read_arrays(parse(spec), path)
    assert arrays.texts is not None
    rows = split_rows(arrays, parse(spec).data.split)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows["train"]:
        counts[arrays.texts[row][-1]][str(arrays.y[row])] += 1
    found = [(counts[arrays.texts[row][-1]] or Counter(["female"])).most_common(1)[0][0] for row in rows["test"]]
    right = np.array(found) == arrays.y[rows["test"]]
    assert (len(right), round(float(np.mean(right)), 3)) == (1032, 0.824)  # as examples/README.md says
    assert result["baseline"]["metrics"]["test_accuracy"] == pytest.approx(0.778, abs=5e-4)
    assert result["metrics"]["test_accuracy"] > np.mean(right) + 0.02


def by_hand(text: str, validation: int, epochs: int) -> tuple[float, int]:
    """The perplexity of the validation part, the end of a text, after so many epochs of characters.yaml in plain
    PyTorch; and how many characters the vocabulary has."""
    train = text[:-validation]
    counts = Counter(train)
    entries = sorted((letter for letter in counts if counts[letter] >= 2), key=lambda letter: (-counts[letter], letter))
    number = {letter: place for place, letter in enumerate(entries, 2)}  # 0 is padding, 1 is unknown
    codes = torch.tensor([number.get(letter, 1) for letter in text])
    x, y = codes[: len(train) - 1].view(32, -1), codes[1 : len(train)].view(32, -1) - 1
    torch.manual_seed(0)
    embedding = nn.Embedding(len(entries) + 2, (len(entries) + 1) // 2, padding_idx=0)
    rnn = nn.GRU(embedding.embedding_dim, 128, batch_first=True)
    head = nn.Linear(128, len(entries) + 1)
    parameters = [*embedding.parameters(), *rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.005)
    found = []
    for _ in range(epochs):
        state = None
        for begin in range(0, x.shape[1], 64):
            outputs, state = rnn(embedding(x[:, begin : begin + 64]), state)
            state = state.detach()
            loss = nn.functional.cross_entropy(head(outputs).flatten(0, 1), y[:, begin : begin + 64].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        with torch.no_grad():
            streams = [stream - 1 for stream in codes[len(train) + 1 :].tensor_split((validation - 1) // 1024)]
            starts = codes[len(train) : -1].tensor_split((validation - 1) // 1024)
            losses = [
                nn.functional.cross_entropy(head(rnn(embedding(inputs[None]))[0][0]), targets, reduction="sum")
                for inputs, targets in zip(starts, streams, strict=True)
            ]
        found.append(math.exp(sum(map(float, losses)) / (validation - 1)))
    return min(found), len(entries)


def test_characters_are_predicted_as_by_a_loop_in_plain_pytorch_and_better_than_by_counting(tmp_path: Path) -> None:
    """With a third of the text of the example, 50 windows of each stream, and a fifth of the epochs."""
    spec = loads((ROOT / "examples" / "characters.yaml").read_bytes())
    spec["training"]["epochs"] = 2
    spec["data"]["split"] = {"validation": 0.1, "test": 0.0}
    text = (ROOT / "data" / "shakespeare.txt").read_text()[:113_778]
    path = tmp_path / "shakespeare.txt"
    path.write_text(text)
    order = {"spec": parse(spec).document(), "data": str(path), "directory": str(tmp_path / "model"), "device": "cpu"}
    result = [*events(order)][-1]["result"]
    expected, entries = by_hand(text + "\n", 11_378, 2)
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert len(card["preprocessing"]["text"]["entries"]) == entries
    assert result["metrics"]["validation_perplexity"] == pytest.approx(expected, rel=1e-3)
    plain = result["baseline"]
    assert plain["is_beaten"]
    assert result["metrics"]["validation_perplexity"] < plain["metrics"]["validation_perplexity"] < 14
    assert plain["answer"] == "a bigram model, which knows the character before"


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, Any]:
    """The card of the vowels' model after two epochs; the model lies in ./model."""
    spec = loads((ROOT / "examples" / "vowels.yaml").read_bytes())
    spec["training"]["epochs"] = 2
    order = {"spec": spec, "data": str(VOWELS), "directory": str(tmp_path / "model"), "device": "cpu"}
    for _ in events(order):
        pass
    card: dict[str, Any] = json.loads((tmp_path / "model" / "model.json").read_text())
    return card


def test_the_readme_shows_how_to_use_a_model(
    trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, section = (ROOT / "examples" / "README.md").read_text().partition("## Use the model")
    snippet = section.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "data").symlink_to(VOWELS.parent)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102 - our own text
    assert names["card"] == trained
    accuracy = trained["metrics"]["test_accuracy"]
    assert 0.5 < accuracy < 1  # two epochs: some are right and some are wrong, so that it matters which
    assert np.mean(np.array(names["predicted"]) == names["y"]) == accuracy
    assert len(names["y"]) == 370
    assert capsys.readouterr().out == f"test accuracy {accuracy} model.json says {accuracy}\n"
