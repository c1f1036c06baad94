"""examples/README.md: a model is of use without Loopline, in the few lines that it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.training.spec import loads
from tests.training.building import events

ROOT = Path(__file__).parents[2]
VOWELS = ROOT / "data" / "japanese-vowels.npz"


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
