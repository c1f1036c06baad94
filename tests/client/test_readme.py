"""The Python of the two READMEs, as a strict type checker reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIVEN = """\
from typing import Any
from loopline import Client, Epoch, LogLine
client = Client()
job = client.job("last")
x: Any = None
"""
"""What the examples of the client's README go on from."""


def examples(page: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found, page
    return found


def test_the_examples_pass_mypy_strict(tmp_path: Path) -> None:
    for number, example in enumerate(examples("README.md")):
        (tmp_path / f"main_{number}.py").write_text(example)
    for number, example in enumerate(examples("client/README.md")):
        (tmp_path / f"client_{number}.py").write_text(GIVEN + example)
    broken = tmp_path / "broken.py"
    broken.write_text("from loopline import Client\nClient().job('last').result.metrics\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *map(str, sorted(tmp_path.glob("*.py")))],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    # One mistake shows that the checker does read the client's types.
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == [
        'error: Item "None" of "Result | None" has no attribute "metrics"  [union-attr]'
    ], done.stdout + done.stderr
