"""A first look: the whole service, one real job, and where to go from there."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from loopline import Client
from loopline.job import Job
from loopline.types import Dataset, Epoch

from local.launcher import ROOT, InUse, Launcher, Part
from services.settings import Settings
from services.training import measures

DATA = ROOT / "data" / "japanese-vowels.npz"
SPEC = ROOT / "examples" / "vowels.yaml"
NAME = "japanese-vowels"
DEFAULT_PORT = 8080


def run(on_start: Callable[[Part], None]) -> int:
    """Start a service in `demo` below the data folder, train on the Japanese Vowels, show what came of it, stop it."""
    given = Settings()
    place = given.data_dir / "demo"
    say("Loopline: a recurrent network, trained by the whole service", "", "Starting")
    began = time.monotonic()
    with service(given, place, on_start, stopping) as started, Client(started.url) as client:
        say(f"  ready      {time.monotonic() - began:5.2f} s   {started.url}, in {shown(started.folder)}", "")
        job = trained(client)
        if job.status != "succeeded":
            say(
                "",
                f"The job has {job.status} ({job.reason}): {job.message}",
                f"The logs lie in {started.folder / 'log'}.",
            )
            return 1
        model = place / "models" / job.id
        job.download(model)
        say("", *result(job, model))
    say("", *next_steps(model, given.port or DEFAULT_PORT))
    return 0


def stopping() -> None:
    say("", "Stopping the service")


@contextmanager
def service(
    given: Settings, place: Path, on_start: Callable[[Part], None], on_stop: Callable[[], None]
) -> Iterator[Launcher]:
    """A service in a folder that no other demo works in, emptied of what the last one left there."""
    for number in count(1):
        folder = place / ("service" if number == 1 else f"service-{number}")
        try:
            with Launcher(settings(given, folder), on_start, on_stop, fresh=True) as started:
                yield started
            return
        except InUse:
            continue


def settings(given: Settings, folder: Path) -> Settings:
    """The environment says how to train (threads, device), where the data lie, and on which port to listen; without one
    it is any free one. The database and the broker are the demo's own, and it listens on this machine only."""
    own = {
        "data_dir": folder,
        "host": "127.0.0.1",
        "port": given.port if "port" in given.model_fields_set else 0,
        "auth": "auto",
        "cpu_workers": given.cpu_workers or 1,  # there is one job
        "database_url": f"sqlite:///{folder}/loopline.db",
        "database_url_file": None,
        "broker_url_file": None,
    }
    copy = given.model_copy(update=own)
    copy.model_fields_set.discard("broker_url")  # not that of the environment
    return copy


def trained(client: Client) -> Job:
    """The job, at its end; its epochs are shown as they pass."""
    dataset = client.upload(DATA, NAME)
    say(f"Uploaded   {shown(DATA)}: {about(dataset)}")
    job = client.submit(SPEC)
    say(f"Submitted  {shown(SPEC)} as {job.id}", "", "Epochs")
    return watch(job)


def about(dataset: Dataset) -> str:
    classes = f", {len(dataset.classes)} classes" if dataset.classes else ""
    return f"{dataset.samples} sequences of {dataset.min_length} to {dataset.max_length} steps{classes}"


def watch(job: Job) -> Job:
    """The job at its end; a line for each epoch as it passes."""
    best: float | None = None
    for job, epochs in job.follow():  # noqa: B020  (the same job, as it is now)
        for epoch in epochs:  # several may have ended since the last look, and the job tells only the best of all
            value = measured(epoch, job)
            is_best = value is not None and (best is None or value < best)
            best = value if is_best else best
            say(epoch_line(epoch, job.progress.epochs, is_best))
    if best is not None:
        say("  * best so far")
    return job


def measured(epoch: Epoch, job: Job) -> float | None:
    """What the best epoch is chosen by, turned so that less is better."""
    metric = job.best.metric if job.best else "train_loss"
    value: float | None = epoch.raw.get(metric)
    return -value if value is not None and measures.recorded(metric).higher_is_better else value


def epoch_line(epoch: Epoch, epochs: int | None, is_best: bool) -> str:
    total = str(epochs or "?")
    shown = {
        "loss": epoch.train_loss,
        "accuracy": epoch.metrics.get("train_accuracy"),
        "validation loss": epoch.validation_loss,
        "validation accuracy": epoch.metrics.get("validation_accuracy"),
        "gradient norm": epoch.grad_norm_mean,
    }
    numbers = [f"{name} {value:.4f}" for name, value in shown.items() if value is not None]
    return f"  epoch {epoch.epoch:>{len(total)}}/{total}   " + "   ".join(numbers) + (" *" if is_best else "")


def result(job: Job, model: Path) -> list[str]:
    metrics: Mapping[str, float | None] = job.result.metrics if job.result else {}
    accuracy, loss = metrics.get("test_accuracy"), metrics.get("test_loss")
    seconds = f"   (trained in {job.seconds:.1f} s)" if job.seconds else ""
    lines = [f"Test accuracy  {accuracy:.4f}{seconds}"] if accuracy is not None else []
    if loss is not None:
        lines.append(f"Test loss      {loss:.4f}")
    files = sorted(path.name for path in model.iterdir())
    return [*lines, f"The model      {model}", f"               {', '.join(files)}"]


def next_steps(model: Path, port: int) -> list[str]:
    address = f"http://127.0.0.1:{port}"
    named = "" if port == DEFAULT_PORT else f'"{address}"'
    return textwrap.dedent(
        f"""\
        Read the model card, {shown(model / "README.md")}, and ask the model about a recording, in Python
        (.venv/bin/python; more in docs/predict.md):

            import numpy as np
            from loopline import load
            data = np.load("data/japanese-vowels.npz")
            answer = load("{shown(model)}").predict(data["x"][-1, : data["lengths"][-1]])
            print(answer.labels, data["y"][-1])

        Keep the service up with

            make run

        and from another terminal send it the same job, with curl:

            curl -sS --data-binary @{shown(DATA)} -H 'Content-Type: application/octet-stream' \\
                 '{address}/v1/datasets?name={NAME}'
            curl -sS --data-binary @{shown(SPEC)} -H 'Content-Type: application/yaml' \\
                 {address}/v1/jobs

        or in Python (.venv/bin/python):

            from loopline import Client
            with Client({named}) as client:
                client.upload("{shown(DATA)}")
                job = client.submit("{shown(SPEC)}").wait(on_epoch=print)
                job.download("model")
        """
    ).splitlines()


def shown(path: Path) -> str:
    """The path as one types it in the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
