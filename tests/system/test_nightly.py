"""examples/nightly as a person copies it: its crontab line in cron's bare environment, on a real service, for some
nights."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from loopline import Client

from tests.system.conftest import ROOT, Service

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="the example needs flock (util-linux)")


def night(folder: Path, url: str, date: str) -> str:
    """What cron would mail of a night."""
    *variables, _, line = (folder / "crontab").read_text().splitlines()
    given = dict(one.split("=", 1) for one in variables)
    changed = {**given, "LOOPLINE_URL": url, "BIN": str(Path(sys.executable).parent)}
    command = line.split(" ", 5)[5].replace("/srv/nightly", str(folder)).replace("./night.sh", f"./night.sh {date}")
    bare = {"HOME": "/", "LOGNAME": "nobody", "PATH": "/usr/bin:/bin", **changed}
    words = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in bare.items()), "/bin/sh", "-c", command]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("Uploaded speakers.npz as speakers@")
    assert not CONTROL.search(done.stdout)
    return done.stdout


@pytest.mark.timeout(300)
def test_a_few_nights_of_the_example(start: Callable[..., Service], tmp_path: Path) -> None:
    folder = tmp_path / "nightly"
    shutil.copytree(ROOT / "examples" / "nightly", folder)
    shutil.copy(ROOT / "data" / "japanese-vowels.npz", folder / "recorded.npz")
    service = start(tmp_path / "var")
    url = service.url()
    with Client(url) as client:
        first = night(folder, url, "2026-11-27")
        assert first.splitlines()[0] == "Night 1: 18 utterances to train on."
        assert re.search(r"^speakers@1 \(ds_\w+\)$", first, re.MULTILINE)
        assert re.search(
            r"^succeeded  speakers  test_accuracy \S+ .* speakers@1 is speakers@production now\. There is no "
            r"speakers@production to compare with: accuracy \S+ is the first\.$",
            first,
            re.MULTILINE,
        )
        # Far more to learn from: better without a doubt.
        much = night(folder, url, "2026-12-05")
        assert "Night 9: 162 utterances to train on." in much
        assert re.search(r"speakers@2 is speakers@production now\. It is better: accuracy .* p = ", much)
        # One day more is no difference that 370 test utterances could show.
        little = night(folder, url, "2026-12-06")
        assert "speakers@3 was not made production" in little
        assert re.search(r"(It is no better|It may be better by luck alone): accuracy ", little)
        assert client.models.version("speakers@production").version == 2

        again = night(folder, url, "2026-12-06")
        assert "before, with this idempotency key" in again
        assert len([*client.models.versions("speakers")]) == 3
        assert [move.to_version for move in client.models.history("speakers")] == [2, 1]
