"""`loopline datasets inspect`: a file is understood, or refused, without a service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loopline.cli.app import app
from typer.testing import CliRunner, Result

RNG = np.random.default_rng(0)


def inspected(*args: str | Path) -> Result:
    line = ["datasets", "inspect", *map(str, args)]
    return CliRunner().invoke(app, line, env={"LOOPLINE_URL": "http://127.0.0.1:1"}, catch_exceptions=False)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Twelve recordings with a semicolon, a decimal comma, a missing value and a gap."""
    rows = ["recording_id;time_s;ax;label"]
    for number in range(12):
        steps = [step for step in range(10 + number) if (number, step) != (3, 5)]
        readings = ["" if (number, step) == (1, 2) else f"{RNG.normal():.4f}" for step in steps]
        label = ["sit", "walk"][number % 2]
        rows += [
            f"rec{number};{step * 2};{v};{label}".replace(".", ",") for step, v in zip(steps, readings, strict=True)
        ]
    path = tmp_path / "recordings.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_file_is_described_on_80_columns(recordings: Path) -> None:
    done = inspected(recordings)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "recordings.csv: CSV, 185 rows, 4 columns"
    for expected in (
        "  group         recording_id",
        "                likely: 12 different values, each on adjacent rows, in a file of",
        "  order         time_s",
        "  sequences     12 of 10 to 21 steps, 185 steps in all",
        "  classes       2: sit (6), walk (6)",
        "  missing       ax 1",
        "- line 14: `ax` has 1 missing value (0.54 %); a job fills them with the value",
        "- Numbers have a decimal comma.",
    ):
        assert expected in lines
    assert "1 gap where the usual step is 2: 1 step after 8 in sequence `rec3`" in done.stdout
    assert lines[-1] == "It can be trained on. But read the warnings first."


def test_what_is_given_is_used(recordings: Path) -> None:
    done = inspected(recordings, "--target", "ax", "--features", "label", "--json")
    found = json.loads(done.stdout)
    assert (found["schema"]["target"], found["schema"]["features"]) == (["ax"], ["label"])
    assert found["report"]["targets"] == "step_values"
    assert {reason["sure"] for reason in found["reasons"] if reason["field"] in ("target", "features")} == {"given"}
    assert (found["trainable"], found["problems"], done.exit_code) == (True, [], 0)


def test_a_file_that_cannot_be_trained_on_leaves_with_1_and_says_why(recordings: Path, tmp_path: Path) -> None:
    done = inspected(recordings, "--target", "lable", "--group", "recording")
    assert done.exit_code == 1
    assert "- target: there is no column `lable`; did you mean `label`?" in done.stdout
    assert "- group: there is no column `recording`; did you mean `recording_id`?" in done.stdout
    assert done.stdout.endswith("It cannot be trained on as it is.\n")
    twice = tmp_path / "twice.csv"
    twice.write_text("t,v\n0,1.5\n1,2.5\n0,3.5\n")
    done = inspected(twice, "--order", "t", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["trainable"], found["report"]) == (1, False, None)
    assert found["problems"][0]["where"] == "line 4"
    assert found["schema"]["order"] == "t"
    same = tmp_path / "same.csv"
    same.write_text("x_0,x_1,x_2,label\n1,2,3,a\n3,2,1,a\n")
    done = inspected(same)
    assert done.exit_code == 1
    assert "every sequence has the class 'a', so there is nothing to learn" in done.stdout


def test_folders_texts_and_arrays(tmp_path: Path) -> None:
    for name in ("walk/a", "walk/b", "run/a"):
        path = tmp_path / "folder" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("t,x\n" + "".join(f"{step},{RNG.normal()}\n" for step in range(5)))
    shown = inspected(tmp_path / "folder").stdout
    assert "sequences     3 of 5 steps" in shown
    assert "classes       2: run (1), walk (2)" in shown
    (tmp_path / "lines.txt").write_text("good film\tpos\nbad film\tneg\nfine\tpos\n")
    assert "target        label: one class for each text" in inspected(tmp_path / "lines.txt").stdout
    (tmp_path / "prose.txt").write_text("It was the best of times,\nit was the worst of times.\n\n" * 9)
    done = inspected(tmp_path / "prose.txt")
    said = " ".join(done.stdout.split())
    assert "a model can learn to predict how they go on (task: next_step)" in said
    assert "copies" not in said
    assert (done.exit_code, said[-21:]) == (0, "It can be trained on.")
    np.save(tmp_path / "x.npy", RNG.normal(size=(10, 5, 2)))
    shown = inspected(tmp_path / "x.npy").stdout
    assert "sequences     10 of 5 steps" in shown
    assert "an array has no columns" in inspected(tmp_path / "x.npy", "--target", "y").stdout.replace("\n  ", " ")


def test_the_command_line_can_be_wrong(recordings: Path, tmp_path: Path) -> None:
    done = inspected(recordings, "--layout", "flat")
    assert (done.exit_code, done.stderr) == (2, "Error: layout must be wide, long, files or text, not 'flat'.\n")
    done = inspected(tmp_path / "nothing.csv")
    assert done.exit_code == 2
    assert "There is no file" in done.stderr
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    assert "loopline datasets upload" in inspected(tmp_path / "x.npz").stderr


def test_a_hostile_name_moves_no_cursor(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,v,\x1b[2Jgone\n0,1.5,\x1b[31mred\n1,2.5,blue\n2,3.5,blue\n")
    assert "\x1b" not in inspected(path).stdout


def test_without_pyarrow_the_command_says_how_to_install_it(recordings: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from loopline.cli import main; sys.argv = ['loopline', 'datasets', 'inspect', sys.argv[1]]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(recordings)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert 'pip install "loopline[files]"' in done.stderr
