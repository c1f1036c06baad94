"""The unbroken twins: each spec and seed that was trained, once more, without faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from services.jobs import series
from tests.chaos.evidence import JobSeen, Twin, history_of, json_lines
from tests.chaos.keeper import ROOT
from worker.attempt.spare import trainer_environment

Name = tuple[str, int]


def compute(jobs: Mapping[str, JobSeen], data: Path, folder: Path) -> dict[Name, Twin]:
    """A twin for each spec and seed among the jobs, two at a time. `data` is the uploaded data set's original."""
    specs = {job.name: job.spec for job in jobs.values() if job.name is not None}
    folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda name: _twin(specs[name], data, folder / f"{name[0]}-{name[1]}"), specs)
        return dict(zip(specs, made, strict=True))


def _twin(spec: Mapping[str, Any], data: Path, folder: Path) -> Twin:
    folder.mkdir()
    order = {
        "spec": spec,
        "data": str(data) if spec["data"]["dataset"] else None,
        "directory": str(folder),
        "resume": None,
        "device": "cpu",
    }
    (folder / "order.json").write_text(json.dumps(order))
    files = [str(folder / "order.json"), str(folder / "events.jsonl")]
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.chaos.twin", *files]
    subprocess.run(command, cwd=ROOT, env=trainer_environment(os.environ), check=True, timeout=300)
    return twin_of(json_lines(folder / "events.jsonl"), folder)


def twin_of(events: list[dict[str, Any]], folder: Path) -> Twin:
    """The twin, put together from what it told of itself."""
    steps = [event for event in events if event["event"] == "steps"]
    finished = events[-1]
    if finished["event"] != "finished":
        raise ValueError(f"The twin in {folder} ended with {finished}")
    files = {file["name"]: file["sha256"] for file in finished["files"]}
    return Twin(
        result=finished["result"],
        epochs=[event["record"] for event in events if event["event"] == "epoch"],
        loss=b"".join(series.pack(event["loss"]) for event in steps),
        grad_norm=b"".join(series.pack(event["grad_norm"]) for event in steps),
        model_sha256=files["model.safetensors"],
        files=frozenset(files),
        history=history_of(folder / "history.json"),
    )
