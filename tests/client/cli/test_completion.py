"""Completion of commands by a shell: bash itself is asked what it would complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loopline.cli.app import app
from typer.testing import CliRunner

ASK = """
eval "$(loopline completion bash)"
COMP_WORDS=(%s) COMP_CWORD=%d
_loopline_completion loopline
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("loopline bat", ["batches"]),
        ("loopline com", ["compare", "completion"]),
        ("loopline batches s", ["show"]),
        ("loopline batches show last --so", ["--sort"]),
        ("loopline show job_", []),
    ],
)
def test_bash_completes_commands_and_options(typed: str, expected: list[str]) -> None:
    words = typed.split()
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK % (" ".join(words), len(words) - 1)],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.split(), done.stderr) == (expected, "")


def test_each_shell_has_a_script_and_others_are_refused() -> None:
    for shell, word in (("bash", "complete -o default"), ("zsh", "compdef"), ("fish", "complete --command loopline")):
        assert word in CliRunner().invoke(app, ["completion", shell]).stdout
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2
