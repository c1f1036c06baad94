"""What the commands about the service itself print: its presets, its workers, and its health."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from loopline import text
from loopline.types import Health, Preset, Worker
from loopline.view import table

SILENT_SECONDS = 30.0
"""A worker gives a sign of life several times in so long."""


def presets(found: Iterable[Preset]) -> table.Listing:
    rows = [{"preset": preset.name, "what it is": preset.description} for preset in found]
    return table.Listing(rows, wrap=("what it is",))


def preset(shown: Preset) -> Text:
    """The fragment as YAML, ready to be a spec's beginning."""
    return table.verbatim(
        f"# {shown.description}\n# `preset: {shown.name}` stands for:\n{table.as_yaml(shown.spec)}".rstrip()
    )


def health(shown: Health) -> RenderableType:
    colour = {"ready": "green", "degraded": "yellow"}.get(shown.status, "red")
    return table.pairs(
        [("status", Text(shown.status, colour)), *((name, state) for name, state in shown.checks.items())]
    )


def workers(found: Iterable[Worker]) -> table.Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "worker": worker.name,
            "state": _state_of_worker(worker),
            "job": worker.job_id or text.NOTHING,
            "queues": ", ".join(worker.queues),
            "computes on": _device(worker),
            "started": text.ago(worker.started_at),
            "seen": text.ago(worker.seen_at),
            "heard a bell": text.ago(worker.heard_at) if worker.heard_at else "never",
        }
        for worker in found
    ]
    return table.Listing(
        rows,
        drop=("started", "heard a bell", "seen"),
        wrap=("worker", "state", "queues", "computes on"),
        last=("job", "queues"),
    )


def _device(worker: Worker) -> str:
    memory = "" if worker.memory_bytes is None else f", {text.size(worker.memory_bytes)}"
    return f"{worker.device}{memory}" if worker.device else text.NOTHING


def _state_of_worker(worker: Worker) -> Text:
    if (silent := text.seconds_since(worker.seen_at)) > SILENT_SECONDS:
        return Text(f"{worker.state}, nothing heard for {text.duration(silent)}", "red")
    return Text(worker.state, {"busy": "cyan", "broken": "red"}.get(worker.state, ""))
