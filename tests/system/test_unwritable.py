"""A data folder that is full, or cannot be written: each way in ends with a sentence, the name and a way out."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, clean

SPEC = str(ROOT / "examples" / "synthetic.yaml")
DOORS = {
    "run": ["local", "run"],
    "demo": ["local", "demo"],
    "api": ["api"],
    "worker": ["worker"],
    "scheduler": ["worker.scheduler"],
    "services": ["services", "tenants", "list"],
}


def tried(arguments: list[str], folder: Path, *, full: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a module with its data in the folder; `full`: as if no byte could be written to any file."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=clean({"LOOPLINE_DATA_DIR": str(folder), "LOOPLINE_PORT": "0"}),
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))) if full else None,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("door", DOORS)
def test_a_folder_that_cannot_be_made_is_named(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here is no room for folders")
    done = tried(DOORS[door], tmp_path / "file" / "var")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert f"Cannot make a folder of {tmp_path / 'file'}: it is a file" in done.stderr
    assert "set LOOPLINE_DATA_DIR to another folder" in done.stderr


@pytest.mark.parametrize("door", [door for door in DOORS if door not in ("worker", "scheduler")])
def test_a_disk_that_is_full_is_said(door: str, tmp_path: Path) -> None:
    done = tried(DOORS[door], tmp_path / "var", full=True)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_a_folder_for_the_model_that_cannot_be_written_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here is no room for folders")
    for full, out in ((False, tmp_path / "file" / "out"), (True, tmp_path / "out")):
        done = tried(["services.training", SPEC, "--out", str(out)], tmp_path / "var", full=full)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Cannot write to {out}: ")
        assert done.stderr.endswith("Name another folder with --out.\n")
        assert done.stderr.count("\n") == 1
