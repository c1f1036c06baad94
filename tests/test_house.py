"""What `make house` finds in a tree made up for it, and that it can read another commit."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks import house
from benchmarks.house import House

FOR_TYPING = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from services.jobs import control
"""
TREE = {
    "services/__init__.py": "",
    "services/errors.py": FOR_TYPING,
    "services/states.py": "def read():\n    from services.jobs.control import submit\n",
    "services/jobs/__init__.py": "",
    "services/jobs/control.py": "from services import errors\nfrom services.jobs import leases\n\ndef list(): ...\n",
    "services/jobs/leases.py": "import services.jobs.control\n\nclass Lease:\n    def list(self): ...\n",
    "client/loopline/__init__.py": "import os, json\nfrom os import path\ndef __dir__(): ...\n",
    "client/loopline/job.py": "@staticmethod\ndef long():\n" + "    ...\n" * 59 + "def short():\n" + "    ...\n" * 58,
    "client/loopline/cli/__main__.py": "from loopline import job\n",
}


@pytest.fixture
def made_up() -> House:
    return House.of(TREE.items())


def test_imports_that_run_upward_are_found_in_functions_and_for_typing_too(made_up: House) -> None:
    found = [(one.importer, one.imported, one.typing) for one in made_up.upward()]
    assert found == [
        ("services.errors", "services.jobs.control", True),
        ("services.states", "services.jobs.control", False),
    ]


def test_circles_are_found_at_run_time_and_for_typing(made_up: House) -> None:
    assert made_up.circles(typing=False) == [["services.jobs.control", "services.jobs.leases"]]
    assert made_up.circles(typing=True) == [["services.errors", "services.jobs.control", "services.jobs.leases"]]


def test_circles_of_folders_are_found_too(made_up: House) -> None:
    assert made_up.circles(typing=False, rooms=True) == [["services", "services/jobs"]]
    without = House.of((path, text) for path, text in TREE.items() if path != "services/states.py")
    assert without.circles(typing=False, rooms=True) == []
    assert without.circles(typing=True, rooms=True) == [["services", "services/jobs"]]


def test_a_function_is_measured_without_its_decorators(made_up: House) -> None:
    assert made_up.too_long() == ["  60 client/loopline/job.py:2 long"]
    assert made_up.functions[1] == (59, "client/loopline/job.py:62 short")


def test_a_function_that_hides_a_built_in_is_found_and_a_method_is_none(made_up: House) -> None:
    assert made_up.hiding() == ["services/jobs/control.py:4 list"]


def test_what_starts_a_program_is_above_everything() -> None:
    tree = {"local/__main__.py": "", "services/errors.py": "import local.__main__\n"}
    [found] = House.of(tree.items()).upward()
    assert (found.importer, found.imported) == ("services.errors", "local.__main__")


def test_another_commit_is_read_from_git_and_shown_beside_this_tree(capsys: pytest.CaptureFixture[str]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=house.ROOT, capture_output=True, text=True, check=False)
    if commit.returncode:
        pytest.skip("this is not a checkout of git")
    assert house.main(["HEAD"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["HEAD", "here"]
    assert len(next(line for line in lines if line.startswith("modules in services/jobs")).split()) == 5


def test_a_task_may_look_up_in_functions_and_for_typing_alone() -> None:
    tree = {
        "services/training/tasks/classes.py": FOR_TYPING + "def loss():\n    import services.training.metrics\n",
        "services/training/tasks/values.py": "import services.training.metrics\n",
        "services/training/metrics.py": "",
        "services/jobs/control.py": "",
    }
    made_up = House.of(tree.items())
    assert len(made_up.upward()) == 3
    [left] = made_up.without_exceptions().upward()
    assert str(left) == "services.training.metrics"
    assert left.importer == "services.training.tasks.values"
