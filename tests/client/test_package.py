"""The package stands alone: it needs nothing of the service, and what it needs is declared."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

CLIENT = Path(__file__).parent.parent.parent / "client"
HEAVY = {"httpx", "rich", "stamina", "tenacity", "yaml"}
NUMPY = ["InputInvalid", "ModelUnusable", "TrainedModel", "load"]
"""The public names that need numpy: those of models that predict without the service."""
SERVICE = {"services", "api", "worker", "flask", "sqlalchemy", "celery", "torch", "numpy", "pydantic"}


def python(code: str, path: Path, folder: Path) -> str:
    """Runs code in a fresh interpreter, in an empty folder, with one thing of ours on its path."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_works_without_the_service(tmp_path: Path) -> None:
    shutil.copytree(CLIENT / "loopline", tmp_path / "site" / "loopline")
    code = (
        f"import sys, json, loopline; [getattr(loopline, name) for name in loopline.__all__ if name not in {NUMPY}];"
        "import loopline.cli, loopline.view.jobs;"
        "print(json.dumps([loopline.__file__, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    file, modules = json.loads(python(code, tmp_path / "site", tmp_path))
    assert file == str(tmp_path / "site" / "loopline" / "__init__.py")
    assert SERVICE & set(modules) == set()
    assert set(modules) >= HEAVY


def test_everything_that_is_imported_is_declared() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[<>=]", requirement)[0] for requirement in wanted}
    source = "\n".join(path.read_text() for path in (CLIENT / "loopline").rglob("*.py"))
    imported = set(re.findall(r"^ *(?:from|import) ([a-z]+)", source, re.MULTILINE))
    foreign = imported - sys.stdlib_module_names - {"loopline"}
    assert {"pyyaml" if name == "yaml" else name for name in foreign} == declared
    assert project["scripts"] == {"loopline": "loopline.cli:main"}


def test_the_help_needs_none_of_the_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys, json\nfrom loopline.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    modules = json.loads(python(code, CLIENT, tmp_path).splitlines()[-1])
    assert HEAVY & set(modules) == set()
