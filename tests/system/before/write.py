"""`python -m tests.system.before.write`: lets the code of COMMIT write what `test_before.py` starts from.

git brings that code into a temporary folder, where its own service runs jobs for two tenants on SQLite. What it leaves,
and what its API said about it, goes into written.tar.xz. This needs the commit in the history, and takes a minute.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.system.before import ARCHIVE, COMMIT

ROOT = Path(__file__).parents[3]
LEFT_OUT = {"log", "valkey", "port", "local.lock", "tmp", "loopline.db-journal"}
"""Of the data folder, what a service makes anew at each start, and the journal, which is empty between transactions."""

SPEC = """\
# What the version before accepted, comments and all.
name: whole
preset: dropout_gru
architecture: {hidden_size: 8}
training:
  epochs: 24
  batch_size: 8
  optimizer: {name: adamw, lr: 0.01}
  lr_schedule: {name: cosine, warmup_steps: 20}
  seed: 7
data:
  dataset: waves
  scaling: standard
  split: {validation: 0.2, test: 0.2}
checkpoints: {every_epochs: 4}
tags: {team: north}
"""

ASK = """
import io, json, sys, time
from pathlib import Path
import numpy as np
from loopline import Client

url, key, others_key, folder = sys.argv[1:]
folder = Path(folder)
rng = np.random.default_rng(3)
y = np.arange(240) % 3
x = np.sin(np.arange(16)[None, :, None] * (0.3 + 0.2 * y[:, None, None]) + rng.normal(0, 0.4, (240, 1, 2)))
np.savez_compressed(folder / "waves.npz", x=np.round(x, 1).astype(np.float32), y=y)
tiny = {"architecture": {"cell": "lstm", "hidden_size": 4}, "training": {"epochs": 2}, "queue": "later",
        "data": {"synthetic": {"samples": 40, "length": 5, "features": 2, "classes": 2}}}

def raw(job):
    return {"job": job.raw, "epochs": [one.raw for one in job.epochs()], "events": [one.raw for one in job.events()],
            "checkpoints": [one.raw for one in job.checkpoints()]}

with Client(url, api_key=key) as client, Client(url, api_key=others_key) as other:
    dataset = client.upload(folder / "waves.npz", "waves")
    whole = client.submit(folder / "spec.yaml").wait(timeout=300)
    assert whole.status == "succeeded", whole.raw
    client.models.register("waves", whole.id, note="the first one")
    version = client.models.promote("waves@1", alias="production")
    spec = {**whole.raw["spec"], "name": "paused"}
    paused = client.submit(spec)
    for paused, epochs in paused.follow(timeout=300):
        if paused.progress.epoch and paused.progress.epoch >= 5 and not paused.pause_requested:
            paused.pause()
        if paused.status == "paused" or paused.terminal:
            break
    assert paused.status == "paused", paused.raw
    queued = other.submit({**tiny, "name": "queued"})
    while time.time() % 60 > 40:
        time.sleep(1)  # the schedule is to be due when nobody is there any more
    submit = {**tiny, "name": "by the clock"}
    schedule = client.schedules.set({"name": "minutely", "cron": "* * * * *", "submit": submit})
    jobs = {"whole": raw(whole.refresh()), "paused": raw(paused.refresh()), "queued": raw(queued)}
    said = {"dataset": dataset.raw, **jobs, "version": version.raw, "schedule": schedule.raw}
    (folder / "said.json").write_text(json.dumps(said))
"""


@contextmanager
def service(tree: Path, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The service of that commit, its address and environment."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")},
        "PYTHONPATH": f"{tree}:{tree / 'client'}",
        "LOOPLINE_DATA_DIR": str(folder),
        "LOOPLINE_PORT": "0",
        "LOOPLINE_AUTH": "keys",
        "LOOPLINE_RENEW_SECONDS": "0.1",
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "local", "run"], cwd=tree, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        url = next(found.group(1) for line in running.stdout if (found := re.search(r"API +(http://\S+)/v1", line)))
        yield url, environment
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=120)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        tree, folder, notes = (Path(temporary, name) for name in ("tree", "var", "notes"))
        tree.mkdir()
        notes.mkdir()
        code = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=code, check=True)
        (notes / "spec.yaml").write_text(SPEC)
        with service(tree, folder) as (url, environment):

            def python(*arguments: str) -> str:
                command = [sys.executable, *arguments]
                return subprocess.run(
                    command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True
                ).stdout

            python("-m", "services", "tenants", "create", "acme")
            names = ("default", "acme")
            keys = {name: python("-m", "services", "keys", "create", "--tenant", name).strip() for name in names}
            python("-c", ASK, url, *keys.values(), str(notes))
        (notes / "keys.json").write_text(json.dumps(keys))
        (notes / "machine.json").write_text(json.dumps(machine()))
        (notes / "waves.npz").unlink()
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            archive.add(notes, "notes")
            archive.add(folder, "var", filter=lambda member: None if left_out(member) else anonymous(member))
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes, {datetime.now(UTC):%Y-%m-%d}")


def left_out(member: tarfile.TarInfo) -> bool:
    parts = Path(member.name).parts
    return len(parts) > 1 and parts[1] in LEFT_OUT


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def machine() -> dict[str, str]:
    """What decides about the last bits of a float: equal on both sides, equal numbers."""
    import torch

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "torch": torch.__version__,
        "cpu": cpu.group(1) if cpu else "",
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }


if __name__ == "__main__":
    main()
