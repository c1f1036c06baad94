"""The wheel of the client predicts beside numpy and one library that computes, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loopline import load
from packaging.requirements import Requirement

from tests.client.prediction.cases import Trained, numbers

CLIENT = Path(__file__).parent.parent.parent.parent / "client"
CODE = """
import json, sys
from pathlib import Path

import loopline
before = sorted(sys.modules)

model = loopline.load(sys.argv[1])
x = json.loads(Path(sys.argv[2]).read_text())
print(json.dumps([model.backend, model.predict(x).probabilities.tolist(), before, sorted(sys.modules)]))
"""


def needed(*names: str) -> Iterator[str]:
    """Installed distributions with these names, and all that they need."""
    for name in names:
        yield name
        for text in importlib.metadata.requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                yield from needed(one.name)


def link(name: str, site: Path) -> None:
    """Makes an installed distribution importable from a folder."""
    found = importlib.metadata.distribution(name)
    tops = {Path(file.parts[0]) for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(found.locate_file(top))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the client's wheel, unpacked."""
    source = Path(shutil.copytree(CLIENT, tmp_path_factory.mktemp("source") / "client"))
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as found:
        found.extractall(folder / "site")
    return folder / "site"


@pytest.mark.parametrize("library", ["onnxruntime", "torch", None])
def test_the_wheel_predicts_alone(
    wheel: Path, trained_model: Callable[[str], Trained], tmp_path: Path, library: str | None
) -> None:
    case = trained_model("plain")
    x = [np.asarray(each).tolist() for each in case.asked(load(case.folder))["x"]]
    (tmp_path / "x.json").write_text(json.dumps(x))
    site = Path(shutil.copytree(wheel, tmp_path / "site"))
    for name in set(needed("numpy", "safetensors", *([library] if library else []))):
        link(name, site)
    done = subprocess.run(
        [sys.executable, "-S", "-c", CODE, str(case.folder), str(tmp_path / "x.json")],
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    backend, probabilities, before, after = json.loads(done.stdout)
    assert backend == (library or "numpy")
    expected = numbers(load(case.folder).predict(x))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    assert {"numpy", "torch", "onnxruntime"} & set(before) == set()
    assert {"services", "httpx", "pydantic", "pyarrow"} & set(after) == set()
