"""docs/tutorial.md as a person follows it: its files, its commands, and what each command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from loopline import Client

from tests.system.conftest import ROOT, Service, clean
from tests.system.tutorial import PAGE, assert_prints, output_of, steps

END = "end of the block, exit code"


class Shell:
    """A terminal: what is typed into it keeps its folder and its variables."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def type(self, commands: str) -> tuple[str, int]:
        """What the commands print, and the exit code of the last one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{{\n{commands}}} </dev/null\nprintf '%s %s\\n' '{END}' $?\n")
        self.process.stdin.flush()
        printed = ""
        for line in self.process.stdout:
            if line.startswith(END):
                return printed, int(line.split()[-1])
            printed += line
        raise AssertionError(f"the shell has ended: {printed}")


def banner(service: Service) -> str:
    """All that the service prints until it is up."""
    assert service.process.stdout is not None
    for line in service.process.stdout:
        service.said += line
        if line.startswith("  logs "):
            break
    return service.said


def accuracies(text: str) -> list[float]:
    """Those of the jobs that succeeded, in order."""
    return [float(number) for number in re.findall(r"^Job .* test_accuracy (\d\.\d+)", text, re.MULTILINE)]


@pytest.mark.timeout(300)
def test_the_tutorial_works_from_top_to_bottom(start: Callable[..., Service], tmp_path: Path) -> None:
    checkout, home = tmp_path / "loopline", tmp_path / "home"
    checkout.mkdir()
    home.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    service = start(checkout / "var")
    url = service.url()
    assert_prints(banner(service), output_of("make run"))
    printed = ""
    environment = {"HOME": str(home), "LOOPLINE_URL": url, "PYTHONUNBUFFERED": "1"}
    with Shell(checkout, clean(environment)) as shell:
        for kind, what, shown in steps(PAGE[PAGE.index("## 4. ") :]):
            if kind == "file":
                (home / "pumps" / what).write_text(shown, encoding="utf-8")
                continue
            said, code = shell.type(what)
            assert_prints(said, shown)
            assert (code != 0) == bool(re.search(r"^Error: |^Job job_\w+ failed ", said, re.MULTILINE)), said
            printed += said
    before, after = accuracies(printed)
    assert (before, after) == pytest.approx(accuracies(PAGE), abs=0.05)
    assert before == 0.75  # the share of good pumps, as the page says
    assert after > 0.9
    with Client(url) as client:
        assert [job.status for job in client.jobs.list()] == ["failed", "succeeded", "succeeded"]
    assert service.stop() == 0
    assert service.said.rstrip().endswith(PAGE.split("## 11. Stop")[1].split("```\n")[1].strip())


def test_the_first_line_of_the_setup_is_that_of_the_tutorial() -> None:
    assert output_of("make setup").replace(".venv", "$(VENV)").strip() in (ROOT / "Makefile").read_text()
