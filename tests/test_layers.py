"""The arrows of ARCHITECTURE.md: which folders may import which, and what an import may bring along.

The order of folders is read from the source, as `make house` does. What comes along is seen by importing every module
in a fresh interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks import house

ROOT = Path(__file__).parent.parent

# Imports the modules given, one after the other, and prints for each what it brought along.
PROBE = """
import importlib, json, sys
seen, report = set(sys.modules), {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    report[name] = sorted({module for module in sys.modules if module not in seen})
    seen = set(sys.modules)
print(json.dumps(report))
"""


def modules(folder: str, *, package: str | None = None) -> list[str]:
    """Every module below a folder of the repository, as it is imported; what was added yesterday is found today."""
    base = ROOT / folder
    name = package or folder.replace("/", ".")
    paths = (path.relative_to(base).with_suffix("") for path in sorted(base.rglob("*.py")))
    dotted = (".".join((name, *path.parts)).removesuffix(".__init__") for path in paths)
    return [module for module in dotted if "static" not in module.split(".")]


def training(*, torch: bool) -> list[str]:
    found = modules("services/training")
    return (
        found
        if torch
        else [module for module in found if module.split(".")[2:3] in (["spec"], ["files"], ["tasks"], ["measures"])]
    )


SUGGESTING = "services.searches.suggesting"
"""It imports Optuna, half a second, and is imported when the scheduler makes the first trial of a search."""


def services() -> list[str]:
    return [
        module for module in modules("services") if not module.startswith("services.training") and module != SUGGESTING
    ]


SHARED = ("loopline.files", "loopline.preprocessing", "loopline.prediction", "loopline.version")
"""Of the client, what the service uses too."""


BACKENDS = {"loopline.prediction.torch_network", "loopline.prediction.onnx_graph"}
"""They import torch and onnxruntime, and are imported when somebody predicts with these."""
EXPORT = "services.training.export"
ONNX = {"onnx", "onnxruntime"}
"""A quarter of a second of import, after training has ended."""


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def client() -> list[str]:
    return modules("client/loopline", package="loopline")


def worker(*, trainer: bool) -> list[str]:
    return [module for module in modules("worker") if module.startswith("worker.trainer") == trainer]


STORE = {"s3fs", "fsspec", "aiobotocore", "botocore", "aiohttp"}
"""What an object store needs: half a second of import, and a thread that no fork may take along."""

LAYERS = {
    "api": (modules("api"), {"torch", "optuna", "worker", "prometheus_client", *STORE}),
    # The library that counts decides at its import how processes share counts: only `metrics.shared` knows.
    "services": (
        services(),
        {"flask", "celery", "kombu", "torch", "optuna", "prometheus_client", "api", "worker", *STORE},
    ),
    "training, as the API uses it": (
        training(torch=False),
        {"torch", "sqlalchemy", "flask", "celery", "redis", "api", "worker", "services.db", "services.orm"},
    ),
    "training": (
        [module for module in training(torch=True) if not is_within(module, EXPORT)],
        {
            *ONNX,
            *("sqlalchemy", "celery", "kombu", "flask", "redis", "httpx", "prometheus_client", "api", "worker"),
            *("services.db", "services.jobs", "services.metrics"),
        },
    ),
    "training, its export": (
        [module for module in training(torch=True) if is_within(module, EXPORT)],
        {"sqlalchemy", "celery", "flask", "redis", "api", "worker", "services.db", "services.jobs"},
    ),
    "worker": (worker(trainer=False), {*ONNX, "torch", "optuna", "flask", "prometheus_client", "api", *STORE}),
    "trainer": (
        worker(trainer=True),
        {
            *ONNX,
            *("sqlalchemy", "psycopg", "celery", "kombu", "redis", "flask", "prometheus_client", "api"),
            *("services.db", "services.settings", "services.metrics", "s3fs", "aiobotocore", "botocore"),
        },
    ),
    "client": (
        [module for module in client() if not any(is_within(module, each) for each in SHARED)],
        {"services", "api", "worker", "flask", "sqlalchemy", "celery", "redis", "torch", "numpy", "pyarrow"},
    ),
    "client, what the service uses too": (
        [module for module in client() if any(is_within(module, each) for each in SHARED) and module not in BACKENDS],
        {"services", "api", "worker", "torch", "pydantic", "httpx", "rich", "typer", "pandas"},
    ),
}


EXPORT_LAST = tuple(sorted(training(torch=True), key=lambda module: is_within(module, EXPORT)))
"""One interpreter imports all of them, since torch takes long. What may not come along with the export may not come
along with the modules before it either, so it is found wherever it came from."""
TOGETHER = {"training": EXPORT_LAST, "training, its export": EXPORT_LAST}


@cache
def brought_along(names: tuple[str, ...]) -> dict[str, list[str]]:
    # A broken environment shows that no module reads it when imported: only building Settings does.
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
        "LOOPLINE_PORT": "not a port",
        "LOOPLINE_DATABASE_URL": "not a database",
        "LOOPLINE_LEASE_SECONDS": "not a number",
        "PATH": "",
        "HOME": "/nonexistent",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(names)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    names, forbidden = LAYERS[layer]
    if not names:
        pytest.skip(f"{layer} has no modules yet")
    brought_by = brought_along(TOGETHER.get(layer, tuple(names)))
    crossings = {
        module: sorted(package for package in forbidden if any(is_within(one, package) for one in brought_by[module]))
        for module in names
    }
    assert {module: packages for module, packages in crossings.items() if packages} == {}


def test_training_imports_nothing_of_the_services_but_errors_wording_fault_points_and_text() -> None:
    brought = {one for modules in brought_along(EXPORT_LAST).values() for one in modules}
    ours = {module for module in brought if is_within(module, "services")}
    assert {module for module in ours if not is_within(module, "services.training")} <= {
        *("services", "services.errors", "services.faults", "services.text", "services.wording"),
    }


FOR_TYPING = [
    [
        f"loopline.{name}"
        for name in (
            *("batch", "download", "errors", "following", "http", "job", "listing", "plot", "polling", "search"),
            *("text", "types", "waiting"),
        )
    ]
]
"""The one circle that only a type checker sees: an error holds the job that failed, and a job raises errors."""


def test_every_folder_has_a_place_in_the_order() -> None:
    rooms = {module.room for module in house.here().modules.values() if not module.path.endswith("/__main__.py")}
    assert rooms == set(house.ROOMS)


def test_no_import_runs_upward() -> None:
    assert house.here().without_exceptions().upward() == []


def test_imports_make_no_circle() -> None:
    found = house.here().without_exceptions()
    assert found.circles(typing=False) == []
    assert found.circles(typing=False, rooms=True) == found.circles(typing=True, rooms=True) == []
    assert found.circles(typing=True) == FOR_TYPING
    assert house.here().circles(typing=False) == []


def test_functions_are_short_and_hide_no_built_in() -> None:
    found = house.here()
    assert found.too_long() == []
    assert found.hiding() == []
