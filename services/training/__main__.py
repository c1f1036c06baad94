"""`python -m services.training job.yaml --out DIR`: trains one spec here and now, with no service at all."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.errors import Diverged, Invalid, OutOfMemory, Problem, SpecInvalid
from services.text import visible
from services.training import environment
from services.training.epochs import Epoch
from services.training.measures import DEFAULTS
from services.training.messages import (
    NEWEST,
    EpochEnded,
    Event,
    Finished,
    FoldStarted,
    Log,
    Note,
    Order,
    RolledBack,
    Started,
    Stopped,
    StopReason,
)
from services.training.spec import Spec, automatic, loads, parse

EPILOG = """\
examples:
  python -m services.training job.yaml --out runs/vowels
  python -m services.training job.yaml --out runs/vowels --resume     continue from the newest checkpoint

exit codes:
  0  trained; history.json, model.safetensors, model.json, model.onnx and README.md are in DIR
  1  a file could not be read or written
  2  the spec or its data has problems, which are listed; or --resume found checkpoints of another spec or other data
  3  training diverged: a loss, a gradient or an output of the model was not finite
  4  the device ran out of memory even with one sample at a time, or the job needs more memory than this machine has
  130  stopped by Ctrl-C, after saving a checkpoint to continue from; a second Ctrl-C does not wait for the checkpoint
  143  stopped by SIGTERM, in the same way; Slurm, `docker stop` and spot machines send it before they kill
"""


HEADS = {**dict.fromkeys(("suspicion", "baseline", "export"), "warning: "), "advice": "advice: "}
"""What precedes the messages of some notes."""
WIDE = 140
"""Columns from which on a terminal has room for all there is to show."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        order = _order(options)
        return _train(order, options.threads, quiet=options.quiet)
    except Invalid as error:
        print(visible(f"{options.job}: {error.message}"), file=sys.stderr)
        for problem in error.problems:
            print(visible(f"  {problem}"), file=sys.stderr)
        return 2
    except Diverged as error:
        print(error.message, file=sys.stderr)
        return 3
    except OutOfMemory as error:
        print(error.message, file=sys.stderr)
        return 4
    except OSError as error:
        where, why = Path(error.filename or options.out), error.strerror or error
        below = where == options.out or options.out in where.parents
        message = (
            f"Cannot write to {options.out}: {why}. Name another folder with --out." if below else f"{where}: {why}"
        )
        print(visible(message), file=sys.stderr)
        return 1
    except Interrupted as stopped:
        return _stopped(options, stopped.signal)
    except KeyboardInterrupt:
        return _stopped(options, signal.SIGINT)


class Interrupted(Exception):
    """A signal has ended the run; its place is saved."""

    def __init__(self, signal: signal.Signals) -> None:
        super().__init__(signal.name)
        self.signal = signal


def _stopped(options: argparse.Namespace, by: signal.Signals) -> int:
    print(
        f"\nStopped. Go on with: python -m services.training {options.job} --out {options.out} --resume",
        file=sys.stderr,
    )
    return 128 + by  # as a shell has it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.training",
        description="Train one spec on this machine, without a service, database or queue.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "job",
        type=Path,
        help="the spec, in YAML or JSON; data.dataset may be the path of a file (CSV, Parquet, .npz, ...), relative to "
        "the spec",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the model, history and checkpoints"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the newest complete checkpoint in DIR")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:1")
    parser.add_argument("--threads", type=_threads, metavar="N", help="number of CPU threads; by default torch decides")
    parser.add_argument("--quiet", action="store_true", help="print no progress, only the last line")
    return parser


def _threads(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("argparse says what is wrong")
    return number


def _order(options: argparse.Namespace) -> Order:
    try:
        text = options.job.read_bytes()
    except OSError as error:
        raise Invalid(f"cannot be read: {error.strerror}") from error
    document = loads(text)
    spec = parse(document)
    data = _data_path(spec, options.job)
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise Invalid(f"--out {out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out) as probe:  # better now than at the first checkpoint
        probe.write(b"Loopline")
    return Order(
        spec=document if automatic.is_open(document) else spec.document(),
        data=str(data) if data else None,
        directory=str(out),
        resume=NEWEST if options.resume else None,
        device=options.device,
        suspect=True,
    )


def _data_path(spec: Spec, job: Path) -> Path | None:
    if spec.data.dataset is None:
        return None
    path = job.parent / spec.data.dataset
    if not path.is_file():
        detail = (
            f"there is no file {path}; without the service this is the path of a file, relative to the spec, "
            "such as ../data/japanese-vowels.npz"
        )
        raise SpecInvalid([Problem("/data/dataset", detail)])
    return path


def _train(order: Order, threads: int | None, *, quiet: bool) -> int:
    gc.disable()  # importing makes a million objects, none of them garbage
    from services.training import run  # torch takes a second to import, and a spec with problems need not wait for it

    gc.freeze()
    gc.enable()

    run.prepare_process(threads)
    try:
        run.device_of(order.device)
    except (RuntimeError, ValueError) as error:
        raise Invalid(f"--device {order.device}: {error}") from error
    with _signals() as stop:
        stream = run.events(order, stop)
        for event in stream if quiet else _shown(stream):
            match event:
                case Note("suspicion" | "baseline" | "export" | "advice" as kind, message=message) if quiet:
                    print(f"{HEADS[kind]}{message}", file=sys.stderr)
                case Finished(result):
                    _print_result(result, Path(order.directory))
                case Stopped(reason):
                    raise Interrupted(signal.Signals[reason])
    return 0


@contextmanager
def _signals() -> Iterator[Callable[[], StopReason | None]]:
    """Turns a first Ctrl-C or SIGTERM into a stop that leaves a checkpoint; a second one ends the process at
    once. The name of the signal is the reason of the stop."""
    asked: list[StopReason] = []
    plain: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {one: signal.getsignal(one) for one in plain}
    taken = [one for one, handler in plain.items() if before[one] == handler]  # others a parent wants to be ignored

    def ask(number: int, _: object) -> None:
        asked.append(StopReason(signal.Signals(number).name))
        for one in taken:
            signal.signal(one, plain[one])

    for one in taken:
        signal.signal(one, ask)
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for one in taken:
            signal.signal(one, before[one])


def _shown(stream: Iterator[Event]) -> Iterator[Event]:
    """Passes events on and shows them: a bar with the newest epoch on a terminal, a line an epoch elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False, markup=False)
    narrow = console.width < WIDE
    elapsed = () if narrow else (TimeElapsedColumn(), TextColumn("elapsed,"))
    columns = (
        BarColumn(bar_width=10 if narrow else 40),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        *elapsed,
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[loss]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None, loss="")
        for event in stream:
            match event:
                case Started():
                    place = event.resumed_from
                    progress.update(task, total=event.epochs, completed=place.epoch if place else 0)
                    console.print(_opening(event), soft_wrap=True)
                case FoldStarted(fold):
                    progress.update(task, total=fold.total_epochs)
                case EpochEnded(record):
                    progress.update(task, advance=1, loss=_losses(record, brief=narrow))
                    if not console.is_terminal:
                        console.print(f"{_place(event)}  {_losses(record)}", soft_wrap=True)
                case RolledBack(epoch, message=message):
                    progress.update(task, completed=epoch)
                    console.print(visible(message), soft_wrap=True)
                case Note(type, message=message):
                    console.print(HEADS.get(type, "") + visible(message), soft_wrap=True)
                case Log(message=message):
                    console.print(visible(message), soft_wrap=True)
            yield event


def _opening(event: Started) -> str:
    place = f"{event.device}, {event.threads} threads" if event.device == "cpu" else event.device
    text = f"Training {event.parameters:,} parameters on {place}: "
    text += f"{event.epochs} epochs of {event.steps_per_epoch} steps"
    resumed = event.resumed_from
    return text + (f", going on after epoch {resumed.epoch} (step {resumed.step})" if resumed else "")


def _place(event: EpochEnded) -> str:
    fold = f"fold {event.fold}, " if event.fold else ""
    return f"{fold}epoch {event.record.get('fold_epoch', event.epoch):>4}"


def _losses(record: Epoch, *, brief: bool = False) -> str:
    parts = [f"loss {_number(record['train_loss'])}"]
    if record["validation_loss"] is not None:
        parts.append(f"validation {_number(record['validation_loss'])}")
    shown = [f"{split}_{name}" for split in ("validation", "train") for name in DEFAULTS]
    for name in () if brief else shown:
        if record.get(name) is not None:
            parts.append(f"{name.replace('_', ' ')} {_number(record[name])}")
            break
    return "  ".join(parts)


def _print_result(result: dict[str, Any], directory: Path) -> None:
    ended = "stopped early" if result["stopped_early"] else "trained"
    if "folds" in result:
        _print_folds(result)
    print(f"{ended.capitalize()} after {result['epochs']} epochs; the best was epoch {result['best_epoch']}.")
    wide = max(22, *(len(name) for name in result["metrics"]), 0)
    for name, value in result["metrics"].items():
        print(f"  {name:<{wide}} {_number(value)}")
    plain = result["baseline"]
    print(f"  {'baseline':<{wide}} {plain['metric']} {_number(plain['metrics'][plain['metric']])} ({plain['answer']})")
    print(f"  {'model':<{wide}} {directory / 'model.safetensors'}")
    if (sample := result.get("sample")) is not None:
        print(f"Text that it wrote (temperature {sample['temperature']}, seed {sample['seed']}):")
        print(visible(sample["text"]))


def _print_folds(result: dict[str, Any]) -> None:
    print(f"{len(result['folds'])} folds, by their validation parts:")
    wide = max(len(name) for name in result["mean"])
    for name, mean in result["mean"].items():
        values = "  ".join(_number(fold["metrics"][name]) for fold in result["folds"])
        print(f"  {name:<{wide}}  {values}  mean {_number(mean)}, standard deviation {_number(result['std'][name])}")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    environment.enter("services.training")
    sys.exit(main())
