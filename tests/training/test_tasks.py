"""The table of tasks: each kind of target has one, and no other module tells them apart by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from services.training import measures
from services.training.spec.fields import Training
from services.training.tasks import known
from services.training.tasks.task import Target

ROOT = Path(__file__).parent.parent.parent
ALLOWED = {
    "services/training/spec/footprint.py",  # describes synthetic data, which has classes
    "services/training/spec/automatic.py",  # what suits each task
    "services/training/files/sequences.py",  # what the readers of files say of targets
    "services/training/files/preview.py",  # shows what they say
    "services/training/export/checked.py",  # what an exported file has for each task
    "services/training/export/model.py",
}


def test_every_target_has_one_task_with_a_default_loss_and_a_default_metric() -> None:
    assert [task.name for task in known.TASKS] == list(dict.fromkeys(get_args(Target)))
    for task in known.TASKS:
        loss = Training.model_validate({"loss": task.losses[task.name][0]}).loss
        assert known.chosen(task.name, loss) is task
        assert known.chosen(task.name, None) is task
        assert measures.default(task.answers(3)) in measures.judging(task.answers(3))


def test_a_loss_may_make_another_task_of_a_target() -> None:
    assert known.chosen("classes", Training.model_validate({"loss": "mse"}).loss).name == "values"
    assert known.chosen("classes", Training.model_validate({"loss": "bce"}).loss).name == "multilabel"


@pytest.mark.parametrize(
    ("y", "name"),
    [
        (np.array([0, 1, 2]), "classes"),
        (np.array(["a", "b"]), "classes"),
        (np.array([[0, 1], [1, 1]]), "multilabel"),
        (np.array([[0, 1], [1, 3]]), "values"),
        (np.array([0.0, 1.0]), "values"),
        (np.array([[0.0, 1.0]]), "values"),
    ],
)
def test_the_arrays_say_which_task_they_are_for(y: np.ndarray, name: str) -> None:
    assert known.of_y(y).name == name


def test_only_a_task_knows_a_task_by_name() -> None:
    names = re.compile(f"""[!=]= ["']({"|".join(get_args(Target))})["']""")
    files = [*(ROOT / "services").rglob("*.py"), *(ROOT / "api").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if names.search(path.read_text())}
    assert found - ALLOWED == set()
