"""README.md and the pages of docs/: their size, their picture and their links."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = ROOT / "docs" / "curve.svg"
CURVE = runpy.run_path(str(ROOT / "docs" / "curve.py"))


def test_the_readme_is_short() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    assert 600 <= len(re.findall(r"[\w.'/-]*\w[\w.'/-]*", prose)) <= 700


def test_the_picture_is_what_the_script_draws() -> None:
    picture = PICTURE.read_text(encoding="utf-8")
    assert CURVE["draw"](CURVE["numbers_of"](picture)) == picture, "run docs/curve.py"
    assert len(picture) < 40_000


def test_the_readme_shows_lines_of_the_run_in_the_picture() -> None:
    drawn = CURVE["numbers_of"](PICTURE.read_text(encoding="utf-8"))
    shown = re.findall(
        r"^  epoch +(\d+)/(\d+)   loss (\S+)   accuracy (\S+)   validation loss (\S+)   validation accuracy (\S+)  ",
        README,
        re.MULTILINE,
    )
    assert len(shown) == 3
    for epoch, epochs, *numbers in shown:
        assert int(epochs) == len(drawn["train_loss"])
        names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
        assert numbers == [f"{drawn[name][int(epoch) - 1]:.4f}" for name in names]
