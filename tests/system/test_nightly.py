"""examples/nightly as a person copies it: its crontab line in cron's bare environment, on a real service, for some
nights."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from loopline import Client

from tests.receiving import Receiver
from tests.system.conftest import ROOT, Service

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="the example needs flock (util-linux)")


CRON_SECONDS = 150
"""A line that is due every minute has run by then, and what it began has ended."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example, copied as its page says."""
    shutil.copytree(ROOT / "examples" / "nightly", tmp_path / "nightly")
    shutil.copy(ROOT / "data" / "japanese-vowels.npz", tmp_path / "nightly" / "recorded.npz")
    return tmp_path / "nightly"


def crontab(folder: Path, url: str) -> tuple[dict[str, str], str]:
    """Its variables and its line, for this folder and service."""
    *variables, _, line = (folder / "crontab").read_text().splitlines()
    given = dict(one.split("=", 1) for one in variables)
    changed = {**given, "LOOPLINE_URL": url, "BIN": str(Path(sys.executable).parent)}
    return changed, line.replace("/srv/nightly", str(folder))


def night(folder: Path, url: str, date: str) -> str:
    """What cron would mail of a night."""
    variables, line = crontab(folder, url)
    command = line.split(" ", 5)[5].replace("./night.sh", f"./night.sh {date}")
    bare = {"HOME": "/", "LOGNAME": "nobody", "PATH": "/usr/bin:/bin", **variables}
    words = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in bare.items()), "/bin/sh", "-c", command]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith(
        ("Uploaded speakers.npz as speakers@", "The content of speakers.npz was there already")
    )
    assert not CONTROL.search(done.stdout)
    return done.stdout


@pytest.mark.timeout(300)
def test_a_few_nights_of_the_example(start: Callable[..., Service], folder: Path, tmp_path: Path) -> None:
    service = start(tmp_path / "var")
    url = service.url()
    with Client(url) as client:
        first = night(folder, url, "2026-11-27")
        assert first.splitlines()[0] == "Night 1: 18 utterances to train on."
        assert re.search(r"^speakers@1 \(ds_\w+\)$", first, re.MULTILINE)
        assert re.search(
            r"^succeeded  speakers  test_accuracy \S+ .* speakers@1 is speakers@production now\. There was no "
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
    told = the_pages_commands("nightly", folder, url, ROOT)
    assert "Batch batch_" in told["schedules run"]
    assert re.search(r"run by hand|asked for", told["schedules history"])
    assert told["models rollback"] == "speakers@production is speakers@1 again.\n"


@pytest.mark.timeout(300)
def test_the_page_about_retraining_works_from_top_to_bottom(start: Callable[..., Service], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "retraining.md").read_text()
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "vowels.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    service = start(tmp_path / "var")
    told = the_pages_commands("retraining", tmp_path, service.url(), tmp_path)
    assert re.search(
        r"^vowels@2 (was not made production|is vowels@production now)\. It", told["submit vowels.yaml"], re.M
    )
    kinds = ["retraining", "warm start", "drift", "gate", "registered"]
    assert [kind for kind in kinds if f"  {kind}: " in told["events last"]] == kinds


def the_pages_commands(page: str, folder: Path, url: str, where: Path) -> dict[str, str]:
    """What the commands of a page print, by their first two words: the last of each."""
    told = {}
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("loopline "):
                words = shlex.split(line.replace("/srv/nightly", str(folder)))
                command = [str(Path(sys.executable).parent / "loopline"), *words[1:]]
                environment = {**os.environ, "LOOPLINE_URL": url}
                done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=100)
                assert done.returncode == 0, (line, done.stdout + done.stderr)
                told[" ".join(words[1:3])] = done.stdout
    return told


@pytest.mark.skipif(
    "LOOPLINE_CRON" not in os.environ, reason="takes a minute and a crontab of this machine: LOOPLINE_CRON=1"
)
@pytest.mark.skipif(shutil.which("cron", path="/usr/sbin") is None, reason="there is no cron daemon")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a cron daemon")
@pytest.mark.timeout(300)
def test_a_real_cron_daemon_retrains_and_a_receiver_that_fails_at_first_is_told(
    start: Callable[..., Service], folder: Path, receiver: Receiver, tmp_path: Path
) -> None:
    """Debian's cron, a real service with a real worker, a real receiver."""
    service = start(tmp_path / "var", LOOPLINE_WEBHOOK_ALLOW="127.0.0.0/8")
    url = service.url()
    variables, line = crontab(folder, url)
    mail, code = folder / "mail", folder / "code"
    line = line.replace("15 2 * * *", "* * * * * root", 1)
    table = Path("/etc/cron.d") / f"loopline-test-{uuid.uuid4().hex}"  # cron reads no name with a dot
    with Client(url) as client:
        hook = client.webhooks.create(receiver.url, events=["batch.ended", "model.promoted"])
        try:
            table.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
            with table.open("a") as file:
                file.write(f"{line} >>{mail} 2>&1; echo $? >>{code}\n")
            table.chmod(0o644)
            daemon = subprocess.Popen(["/usr/sbin/cron", "-f", "-L", "0"], env={"PATH": "/usr/sbin:/usr/bin:/bin"})
            try:
                deadline = time.monotonic() + CRON_SECONDS
                while not (code.exists() and code.read_text().count("\n") >= 2):  # the same night a second time
                    assert daemon.poll() is None, "this cron daemon has ended: is another one running?"
                    assert time.monotonic() < deadline, mail.read_text()
                    time.sleep(0.2)
            finally:
                daemon.terminate()
                daemon.wait(30)
        finally:
            table.unlink(missing_ok=True)
        assert code.read_text() == "0\n0\n"
        told = mail.read_text()
        assert not CONTROL.search(told)
        assert told.count("Night 1: 18 utterances to train on.") == 2
        assert told.count("before, with this idempotency key") == 1
        assert len([*client.batches.list()]) == len([*client.models.versions("speakers")]) == 1
        deadline = time.monotonic() + 60
        while not all(one.delivered_at for one in client.webhooks.deliveries(hook.id)):
            assert time.monotonic() < deadline, receiver.received
            time.sleep(0.2)
    payloads = {one.headers["webhook-id"]: json.loads(one.body) for one in receiver.received}
    assert sorted(one["type"] for one in payloads.values()) == ["batch.ended", "model.promoted"]
    assert len(receiver.received) == 4  # two of them in vain
