"""Carries out one order: data, resuming, training, checkpoints, the result. It yields a stream of events.

The trainer process sends these events (`messages.py`) up its pipe, and `python -m services.training` shows them on a
terminal.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from services import faults
from services.errors import Diverged, NotFinite
from services.training import advice, baseline, checkpoint, epochs, folds, sampling
from services.training.card import gathering, names, writing
from services.training.continuation import Continuation
from services.training.data import Prepared, prepare
from services.training.engine.choice import Engine, choose
from services.training.files import npz, reading, suspicions
from services.training.files.npz import Arrays
from services.training.files.steps import IN_FILE_FROM, FileSteps
from services.training.files.summary import SeriesSummary
from services.training.folds import Folds
from services.training.gate.verdict import Retraining
from services.training.loop import (
    Epoch,
    EvaluationOutOfMemory,
    Run,
    details,
    evaluate,
    fit,
    probe,
    restore_best,
    unanswered,
)
from services.training.memory import Smaller, give_back, smaller, usage
from services.training.messages import Best as BestEpoch
from services.training.messages import (
    DeviceMemory,
    EpochEnded,
    Event,
    File,
    Finished,
    FoldStarted,
    Level,
    Log,
    Note,
    Order,
    Place,
    RolledBack,
    Selection,
    Started,
    Steps,
    Stopped,
    StopReason,
)
from services.training.resume import resume, take_up
from services.training.retention import Recorded, Retention
from services.training.rollback import roll_back, sentence_of, tell_rollbacks
from services.training.rungs import GoesOn, Rungs
from services.training.spec import Spec, automatic, check_data, completed, data_warnings, parse, stored, tasks
from services.training.spec.footprint import GATES, check_padded, host_bytes, of_synthetic
from services.training.spec.room import check_fits

Stop = Callable[[], StopReason | None]
Offered = tuple[dict[str, Any], tuple[File, ...]]
"""The result and the files of a model."""

WORTH_A_THREAD = {False: 4_000_000, True: 1_000_000}
"""Floating point operations of one time step's recurrent product, from which on a second thread pays: with PyTorch's
layers, whose threads wait for each other at each step, and with compiled ones, which do so once a pass."""
MODEL_FORMAT = "loopline-model/1"
SCALED_MODEL_FORMAT = "loopline-model/2"
"""Where the targets were scaled: what the network answers is to be put back into the data's unit (`target_scaling`)."""
PREPARED_MODEL_FORMAT = "loopline-model/3"
"""Where more than a scaling is done to the input (`preprocessing`)."""
FORECAST_MODEL_FORMAT = "loopline-model/4"
"""Where the answer is a forecast: `forecast` says of how many steps and columns, and how series were scaled."""
TEXT_MODEL_FORMAT = "loopline-model/5"
"""Where the input are texts: `preprocessing.text` says how they are read."""
NEXT_STEP_MODEL_FORMAT = "loopline-model/6"
"""Where the answer is what comes next in a text, at each step: what is unknown, or an entry of the vocabulary."""
CALENDAR_MODEL_FORMAT = "loopline-model/7"
"""Where the answer is a forecast that reads the calendar: `forecast.calendar` says what of it."""
CUT_SHORT = {StopReason.CANCEL: "cancelled", StopReason.TIME_LIMIT: "time_limit", StopReason.PRUNED: "pruned"}
"""Reasons to stop after which nobody goes on; and what a model says of it."""
SIGN_SECONDS = 10.0
"""If the weights that are kept were asked for longer than this, a sign of life comes before they are compared."""
STEPS_EVERY_SECONDS = 0.5
STEPS_AT_MOST = 500
MEMORY_EVERY_SECONDS = 2.0


def prepare_process(threads: int | None = None) -> None:
    """Sets what must be set before torch's first thread starts; the process's ENVIRONMENT comes before that.

    Flush-to-zero reaches only threads that are started after it; without it the vanishing gradients of long sequences
    underflow to denormal numbers, on which a CPU is more than ten times slower.
    """
    torch.set_flush_denormal(True)
    # Where a GPU runs layer by layer, or in bf16, cuDNN gathers the weights at every step: known, and a line a job.
    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk", UserWarning)
    if threads is not None:
        torch.set_num_threads(threads)


def use_threads(spec: Spec, engine: Engine) -> None:
    """Leaves a small network to one thread: two of them would spend more on waiting for each other than they save.

    Measured by the recurrent matrix product of one time step. The same spec gets the same number of threads on the same
    machine, for on that depends the last bit of every sum.
    """
    a = spec.architecture
    if 2 * spec.training.batch_size * GATES[a.cell] * a.hidden_size**2 < WORTH_A_THREAD[engine.compiled]:
        torch.set_num_threads(1)


def device_of(name: str = "auto") -> torch.device:
    """The device of that name. Raises ValueError where there is none here, RuntimeError where torch cannot read it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError("give auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError("there is no such GPU that torch can use")
    if device.type == "cuda" and device.index is None:  # tensors there have a number, and `cuda` alone equals none
        return torch.device("cuda", torch.cuda.current_device())
    return device


def warm(device: torch.device) -> None:
    """Takes a training step of each cell: torch's first steps in a process take longer.

    They are of a common size, so that the libraries below have chosen their kernels and made their buffers when a job
    comes.
    """
    arrays = npz.synthetic(samples=80, length=10, features=8, classes=2, seed=0)
    for cell in ("rnn", "lstm", "gru"):
        document = {
            "architecture": {"cell": cell, "hidden_size": 128, "num_layers": 2},
            "training": {"epochs": 1},
            "data": {"synthetic": {}},
        }
        spec = check_data(parse(document), npz.summarise(arrays))
        for _ in fit(Run(spec, prepare(arrays, spec), device)):
            pass


def events(
    order: Order,
    stop: Stop = lambda: None,
    recorded: Recorded = lambda: math.inf,
    in_file_from: int = IN_FILE_FROM,
    goes_on: GoesOn = lambda _: True,
) -> Iterator[Event]:
    """Carries out one order and yields what happens.

    The events that change which epoch is the best (started, epoch, rolled_back) say which one it is. `stop` is asked
    after every update and answers with a reason to end; `recorded` counts the events about checkpoints that
    are in the database. Steps that take `in_file_from` bytes or more stay in their file. `goes_on` is asked after the
    order's `rungs`.
    Raises Diverged, OutOfMemory (TooLargeToTrain), DatasetInvalid, SpecInvalid, OSError.
    """
    # What nobody has chosen yet, no older version has stored.
    spec = parse(order.spec) if automatic.is_open(order.spec) else stored(order.spec)
    path = Path(order.data) if order.data else None
    sha256 = None if path is None else order.data_sha256 or _sha256(path)
    device = device_of(order.device)
    if spec.data.synthetic is not None:
        check_fits(spec, of_synthetic(spec.data.synthetic), _memory_of_gpu(device))
    arrays = read_arrays(spec, path, in_file_from)
    summary = npz.summarise(arrays)
    spec, chosen = completed(spec, order.spec, summary)
    if chosen:
        yield Note("chosen", "info", automatic.sentence(chosen), {})
    if order.suspect:
        for message in data_warnings.for_job(suspicions.of(arrays), spec, summary, chosen):
            yield Note("suspicion", "warning", message, {})
    spec = check_data(spec, summary)
    check_fits(spec, summary, _memory_of_gpu(device), in_file=isinstance(arrays.x, FileSteps))
    if summary.series is not None and summary.series.absent and tasks.forecast(spec):
        yield rows_added(spec, summary.series)
    if spec.training.deterministic:
        torch.use_deterministic_algorithms(True)
    use_threads(spec, choose(spec.training, device))
    retention = Retention(Path(order.directory), recorded)
    if spec.data.split.folds:
        yield from _fold_by_fold(Folds(spec, arrays, device, sha256), retention, order, stop)
        return
    retraining = Retraining(spec, arrays, device, order.baselines)
    del arrays  # what is needed of them is in there
    if any(retraining.data.left_out.values()):
        yield left_out(retraining.data)
    first = Run(spec, replace(retraining.data, sha256=sha256), device, retraining.initial)
    training = Training(first, retention, retraining, path, Rungs(order.rungs, goes_on), order.selection)
    del first  # it may have to make room for a smaller one
    yield from training.events(order.resume, stop)


def _fold_by_fold(job: Folds, retention: Retention, order: Order, stop: Stop) -> Iterator[Event]:
    """Trains each fold and then the final model, from the place on where the order resumes."""
    if order.resume is None:
        prepared = yield from job.check()
        if any(prepared.left_out.values()):
            yield left_out(prepared)
        del prepared
    run, resumed = yield from job.resume(retention.directory, order.resume, Path(order.data) if order.data else None)
    training = Training(run, retention, selection=order.selection)
    del run  # only one of them has room on the device
    yield from training.begin(resumed)
    yield from training.train(stop)
    while training.result is not None:  # a fold has ended, and was not stopped
        if (reason := stop()) is not None:
            yield from training.stopped(reason)
            return
        fold, batches = job.after(training.run, training.result), training.run.state.batches
        engine = training.run.engine  # that of the first fold, wherever the job goes on
        del training.run
        give_back(job.device)
        training.run = job.run(fold, batches)
        training.run.compute_with(engine)
        if (progress := folds.progress_of(training.run)) is not None:
            yield FoldStarted(progress)
        yield from training.train(stop)


def rows_added(spec: Spec, series: SeriesSummary) -> Note:
    """Says how many rows a forecast added, so that all steps of its series are equal."""
    message = (
        f"{series.absent:,} rows were missing between the {series.steps:,} of the data, whose usual step is "
        f"{series.step}. They were added without values, and data.missing is {spec.data.missing}. No forecast is "
        "judged by a value that was made up."
    )
    return Note("missing", "warning", message, {"added": series.absent, "given": series.steps})


def left_out(data: Prepared) -> Note:
    """Says how many samples `missing: drop` left out."""
    counts = [f"{out:,} of {out + len(data.rows[name]):,} {name}" for name, out in data.left_out.items() if out]
    message = f"Samples with missing values were left out: {', '.join(counts)}."
    return Note("missing", "warning", message, {"left_out": data.left_out})


def memory_of(device: torch.device) -> tuple[str, int | None]:
    """What a device is called, and its memory in bytes; of `cpu`, what this process may use of the machine's."""
    gpu = _memory_of_gpu(device)
    return gpu if gpu is not None else ("cpu", host_bytes())


def _memory_of_gpu(device: torch.device) -> tuple[str, int] | None:
    """The name of a GPU and its memory in bytes; None of a processor."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    return found.name, found.total_memory


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(spec: Spec, path: Path | None, in_file_from: int | None = None) -> Arrays:
    """The data a spec asks for: read from the path, which is that of a data set or of any file that could become one,
    or drawn. Steps of a stored data set that take `in_file_from` bytes or more stay in their file, unless they
    are read in windows (a forecast, `bptt_steps`).

    Raises DatasetInvalid, TooLargeToTrain.
    """
    synthetic = spec.data.synthetic
    if path is not None:
        schema = spec.data.schema_
        given = {} if schema is None else schema.model_dump(exclude_none=True)
        limits = npz.Limits(max_bytes=host_bytes() or sys.maxsize, plain_labels=False)
        return reading.read(
            path,
            limits,
            given,
            lambda found: check_padded(found.x[:1].nbytes, found.lengths),
            in_file_from if tasks.forecast(spec) is None and spec.training.bptt_steps is None else None,
        )
    assert synthetic is not None, "a spec without synthetic data needs a path"  # noqa: S101
    return npz.synthetic(synthetic.samples, synthetic.length, synthetic.features, synthetic.classes, synthetic.seed)


class Training:
    """A run, trained to its end: through divergence, a lack of memory and requests to stop."""

    def __init__(
        self,
        run: Run,
        retention: Retention,
        retraining: Retraining | None = None,
        data: Path | None = None,
        rungs: Rungs | None = None,
        selection: Selection | None = None,
    ) -> None:
        self.rungs, self.selection = Rungs() if rungs is None else rungs, selection
        self.run, self.retention, self.retraining, self.data = run, retention, retraining, data
        self.directory = retention.directory
        self.result: dict[str, Any] | None = None
        """Of a fold that has ended and that another one follows."""
        self._steps_at = time.monotonic()
        self._has_sent_steps = False
        self._measured_at = -math.inf

    def events(self, wanted: str | None, stop: Stop) -> Iterator[Event]:
        """Trains from the `wanted` checkpoint on; see the order's `resume`."""
        resumed = yield from resume(self.run, self.directory, wanted, self.data)
        yield from self.begin(resumed)
        yield from self.train(stop)

    def begin(self, resumed: Path | None) -> Iterator[Event]:
        """Says where training begins: after this checkpoint, if there is one."""
        use_threads(self.run.spec, self.run.engine)  # which may be the one that the checkpoint is of
        self.retention.take_stock()
        yield self._started(resumed)
        if self.run.precision_of_layers != self.run.training.precision:
            yield _layers_in_float32(self.run)
        if (note := _engine(self.run)) is not None:
            yield note
        if resumed is None and self.retraining is not None:
            yield from self.retraining.beginning()

    def train(self, stop: Stop) -> Iterator[Event]:
        """Trains the run to its end, or until it is to stop."""
        self.result = None
        while True:
            try:
                yield from self._train(stop)
                return
            except Diverged as error:
                if isinstance(error, NotFinite):
                    self.run.state.best = None  # nothing to go back to
                if not roll_back(self.run):
                    yield from self._last_good(error)
                    tell_rollbacks(error, self.run)
                    raise
                again = self._rolled_back(error)
            except torch.OutOfMemoryError as error:
                in_evaluation = isinstance(error, EvaluationOutOfMemory)
                again = self._with_less(smaller(self.run, evaluating=in_evaluation))
            yield from again  # out here nothing refers to the failure, nor to what its traceback held of the device

    def _train(self, stop: Stop) -> Iterator[Event]:
        """Trains to the end, or until it is to stop; the last run of the job then writes the result."""
        run = self.run
        for epoch in fit(run):
            now = time.monotonic()
            if epoch is not None or self._steps_due(now):
                yield from self._steps(now)
            if epoch is not None:
                yield EpochEnded(epoch, best_of(run))
            reason = stop()
            if epoch is not None and reason is None and not run.finished:
                reason = yield from self.rungs.wait(run.epochs_made, stop)
            if reason or run.finished or self.retention.is_due(run, now, epoch_ended=epoch is not None):
                yield from self._steps(now)  # the numbers before a checkpoint are sent before it
                if reason and not (run.finished and run.fold.is_last):
                    yield from self.stopped(reason)
                    return
                yield from self.retention.save(run)
        if not run.fold.is_last:
            yield from self._fold_ended()
            return
        yield from self.retention.settle(run.spec.checkpoints.keep_last)
        yield from finish(run, self.directory, self.retraining, self.selection)

    def stopped(self, reason: StopReason) -> Iterator[Event]:
        """Saves the place of the run and ends. What nobody goes on with is offered as a model.

        Of a trial that was stopped early no place is saved. If the end is lost, another attempt has to reach the same
        rung, and to be told the same.
        """
        if reason != StopReason.PRUNED:
            yield from self.retention.save(self.run, must=reason != StopReason.CANCEL)
        offered = None
        if reason in CUT_SHORT:
            offered = yield from self._cut_short(CUT_SHORT[reason])
        yield Stopped(reason, *(offered or ()))

    def _fold_ended(self) -> Iterator[Event]:
        check_answers(self.run)
        result = folds.result_of(self.run)
        check_losses(self.run, result["metrics"])
        self.result = result
        yield folds.note_of(self.run, result)

    def _cut_short(self, why: str) -> Generator[Event, None, Offered | None]:
        """Offers the best weights of a run that nobody goes on with: what the last event says of them, if anything."""
        try:
            offered = yield from cut_short(self.run, self.directory, why)
        except OSError as error:
            yield _warning(f"The best weights until then could not be written as a model: {error}.")
            return None
        if offered is None:
            yield Log(
                "info",
                "There is no model of the run until then: no epoch had ended with finite weights and a finite loss.",
            )
        return offered

    def _rolled_back(self, error: Diverged) -> Iterator[Event]:
        """Reports a rollback, and saves a checkpoint of the run before it deletes those of the abandoned steps."""
        run = self.run
        data = {
            "rollback": run.state.rollbacks.count,
            "lr_factor": run.state.rollbacks.lr_factor,
            "diverged_at_step": error.step,
            "lr": error.lr,
        }
        yield RolledBack(run.epochs_made, run.state.step, best_of(run), sentence_of(error, run), data)
        yield from self.retention.save(run)
        self.retention.forget_after(run.state.step)

    def _with_less(self, less: Smaller) -> Iterator[Event]:
        """Builds the run again, with smaller micro-batches, as it was at the last checkpoint."""
        spec, data, device, initial = self.run.spec, self.run.data, self.run.device, self.run.initial
        step, fold = self.run.step, self.run.fold
        del self.run  # before there is another: the device has no room for two
        give_back(device)
        self.run = Run(spec, data, device, initial, step, fold)
        found = take_up(self.run, self.directory)
        self.retention.take_stock()
        less.apply(self.run)
        resumed = found is not None or fold.steps_before > 0
        yield Note("micro_batch", "warning", less.sentence(self.run, resumed), less.document(self.run, resumed))
        yield self._started(found)
        yield from self.retention.save(self.run)  # so that a later attempt begins with what fits

    def _last_good(self, error: Diverged) -> Iterator[Event]:
        """Keeps where a run stood before it diverged: the weights of then, and the best ones; and says what there is.

        With fp16 the updates since then may have changed them, so there the checkpoint before has to do.
        """
        run = self.run
        if run.state.step and run.scaler is None and not run.finished:
            yield from self._steps(time.monotonic())
            yield from self.retention.save(run)
        if isinstance(error, NotFinite):
            return
        steps = self.retention.steps
        if not steps:
            error.add("There is no checkpoint from before it.")
        elif steps[-1] == run.state.step and run.scaler is None:
            error.add("The weights from before this step are in the last checkpoint.")
        else:
            error.add(f"The last checkpoint is that of step {steps[-1]}.")

    def _started(self, resumed: Path | None) -> Event:
        run, fold = self.run, folds.progress_of(self.run)
        is_begun = resumed is not None or run.fold.steps_before > 0
        gpu = _memory_of_gpu(run.device)
        return Started(
            epochs=run.training.epochs if fold is None else fold.total_epochs,
            steps_per_epoch=run.steps_per_epoch,
            resumed_from=Place(run.epochs_made, run.state.step) if is_begun else None,
            best=best_of(run),
            parameters=sum(p.numel() for p in run.parameters),
            device=str(run.device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            checkpoints=self.retention.steps,
            details={"engine": run.engine.name} if gpu is None else {"device_name": gpu[0]},
            fold=fold,
        )

    def _steps_due(self, now: float) -> bool:
        """Whether to send the new updates now. The first one of this process is sent at once, because it shows that
        the run could be built; the rest are sent twice a second."""
        run = self.run
        fresh = run.state.steps_in_epoch - run.state.reported
        return not self._has_sent_steps or fresh >= STEPS_AT_MOST or now - self._steps_at >= STEPS_EVERY_SECONDS

    def _steps(self, now: float) -> Iterator[Event]:
        self._steps_at = now
        first, reports = self.run.take_reports()
        if reports:
            self._has_sent_steps = True
            loss, grad_norm = zip(*reports, strict=True)
            yield Steps(first, _all_finite(loss), _all_finite(grad_norm), self.run.fold.number)
        yield from self._memory(now)

    def _memory(self, now: float) -> Iterator[Event]:
        """What the run takes of a GPU now: an event of its own, for an epoch's record must be the same in every run."""
        if now - self._measured_at >= MEMORY_EVERY_SECONDS and (memory := usage(self.run.device)) is not None:
            self._measured_at = now
            yield DeviceMemory(memory)


def _warning(message: str) -> Event:
    return Log("warning", message)


def _engine(run: Run) -> Event | None:
    """Says that PyTorch trains where compiled layers could have, if a spec lets them."""
    engine, asked = run.engine, run.training.engine
    if engine.compiled or asked == "torch" or (asked == "auto" and run.device.type != "cpu"):
        return None
    level: Level = "warning" if asked == "compiled" else "info"
    return Note(
        "engine", level, f"PyTorch computes the recurrent layers, because {engine.why}.", {"engine": engine.name}
    )


def _layers_in_float32(run: Run) -> Event:
    architecture, asked = run.spec.architecture, run.training.precision
    where = "CPU" if run.device.type == "cpu" else "GPU"
    message = (
        f"This {where} cannot train the {architecture.cell} layers of this spec in {asked} (with torch "
        f"{torch.__version__}): they are computed in float32, the rest of the network in {asked}."
    )
    data = {"precision": asked, "precision_of_layers": run.precision_of_layers, "device": str(run.device)}
    return Note("precision", "warning", message, data)


def finish(
    run: Run, directory: Path, retraining: Retraining | None = None, selection: Selection | None = None
) -> Iterator[Event]:
    """Writes the result of a run that has ended: the best weights, their metrics, and the history. The events of a
    retraining come first. `selection` says how the spec of a final model was selected."""
    began = time.monotonic()
    restore_best(run)
    directory.mkdir(parents=True, exist_ok=True)
    check_answers(run)
    metrics: dict[str, float | None] = {}
    for name, part in (("validation", run.data.validation), ("test", run.data.test)):
        if part is not None:
            metrics |= {f"{name}_{key}": value for key, value in evaluate(run, part).items()}
    if run.data.validation is None and run.state.best is not None:
        metrics |= _train_metrics(run.state.history[run.state.best.epoch - 1])
    check_losses(run, metrics)
    if time.monotonic() - began > SIGN_SECONDS:
        yield DeviceMemory(usage(run.device) or {})
    failed: list[str] = []
    result: dict[str, Any] = {
        "best_epoch": run.state.best.epoch if run.state.best else None,
        "epochs": run.state.epoch,
        "stopped_early": run.state.stopping.stopped,
        **({"rollbacks": run.state.rollbacks.count} if run.training.on_divergence else {}),
        "metrics": epochs.finite(metrics),
        "baseline": baseline.of(run, metrics, failed=failed),
    }
    if run.fold.number and run.data.test is None:
        result["baseline"] = folds.compared(run, result["baseline"], selection.trials if selection else 1)
    parts = {"validation": run.data.validation, "test": run.data.test}
    found = {name: details(run, part) for name, part in parts.items() if part is not None}
    result["details"] = {name: each for name, each in found.items() if each is not None} or None
    if isinstance(run.data, Continuation):
        result["sample"] = sampling.of_result(run)
    for sentence in failed:
        yield Note("baseline", "warning", sentence, {})
    if (plain := result["baseline"]["message"]) is not None and run.spec.data.synthetic is None:
        yield Note("baseline", "warning", plain, {"metric": result["baseline"]["metric"]})
    result["gradients"] = _gradients(run)
    result["advice"] = advice.of(run, result) if selection is None else []  # a search has tried what would be advised
    for sentence in result["advice"]:
        yield Note("advice", "info", sentence, {})
    result |= folds.summary(run.fold)
    result |= {"selection": asdict(selection)} if selection is not None else {}
    profile = {}
    if retraining is not None:
        notes, concluded = retraining.conclude(run)
        yield from notes
        result |= {"retrain": concluded} if concluded is not None else {}
        profile = {"profile": retraining.profile} if retraining.profile is not None else {}
    files = yield from _write_model(run, directory, run.model.state_dict(), {**result, **profile})
    faults.point("result.written")
    yield Finished(result, files)


def _gradients(run: Run) -> epochs.Epoch:
    """What the gradient is like inside the network with its best weights, and what was clipped in their epoch."""
    assert run.state.best is not None, "an epoch has ended"  # noqa: S101
    clipped = run.state.history[run.state.best.epoch - 1].get("clipped_fraction")
    return epochs.finite({"clipped_fraction": clipped, **probe(run)})


def cut_short(run: Run, directory: Path, why: str) -> Generator[Event, None, Offered | None]:
    """Writes the best weights of a run that ends before its end, in the form of a finished one and marked as what they
    are; None where there are none that can be of use. What is known of them is what the best epoch recorded: there is
    no time to ask them anything."""
    if run.state.best is None:
        return None
    epoch = run.state.history[run.state.best.epoch - 1]
    split = "validation" if run.data.validation is not None else "train"
    if epoch[f"{split}_loss"] is None or not all(_is_finite(tensor) for tensor in run.state.best.weights.values()):
        return None
    metrics = {key: value for key, value in epoch.items() if key.startswith(f"{split}_")}
    result = {
        "complete": False,
        "incomplete_because": why,
        "best_epoch": run.state.best.epoch,
        "epochs": run.state.epoch,
        "stopped_early": False,
        **({"rollbacks": run.state.rollbacks.count} if run.training.on_divergence else {}),
        "metrics": metrics,
        "baseline": baseline.of(run, metrics, thorough=False),
        **({"fold": run.fold.number} if run.fold.number else {}),
        **folds.summary(run.fold),
    }
    files = yield from _write_model(run, directory, run.state.best.weights, result)
    return result, files


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _write_model(
    run: Run, directory: Path, weights: Mapping[str, torch.Tensor], described: dict[str, Any]
) -> Generator[Event, None, tuple[File, ...]]:
    """Writes the files of a model; their records. Says so if there is no model.onnx or no README.md among them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    model_format = MODEL_FORMAT if run.data.target_scaling.shift is None else SCALED_MODEL_FORMAT
    if not run.data.preprocessing.is_plain:
        model_format = PREPARED_MODEL_FORMAT
    if run.data.task.of_series:
        reads_calendar = run.data.card()["forecast"].get("calendar")
        model_format = CALENDAR_MODEL_FORMAT if reads_calendar else FORECAST_MODEL_FORMAT
    if run.data.preprocessing.text is not None:
        model_format = TEXT_MODEL_FORMAT
    if isinstance(run.data, Continuation):
        model_format = NEXT_STEP_MODEL_FORMAT
    card = checkpoint.card(run)
    document = {"format": model_format, **card, **described}
    for name in ("model.onnx", *names.NAMES):  # those of other weights
        (directory / name).unlink(missing_ok=True)
    files = [
        checkpoint.write_tensors(directory / "model.safetensors", tensors),
        _write_json(directory / "model.json", document),
        _write_json(directory / "history.json", {"epochs": folds.history_of(run)}),
    ]
    graph = _write_onnx(directory / "model.onnx", card, tensors, run.data)
    if isinstance(graph, File):
        files.append(graph)
    else:
        yield Note("export", "warning", f"There is no model.onnx: {graph}.", {})
    found = _write_card(run, directory, document, has_onnx=isinstance(graph, File))
    if isinstance(found, str):
        for name in names.NAMES:  # of which some may have been written
            (directory / name).unlink(missing_ok=True)
        yield Note("export", "warning", f"There is no README.md: {found}.", {})
        return tuple(files)
    return *files, *found


def _write_card(run: Run, directory: Path, document: Mapping[str, Any], *, has_onnx: bool) -> tuple[File, ...] | str:
    """Writes the model card and its pictures; or a clause that says why there is none. Whatever goes wrong with it, the
    model itself is there."""
    try:
        found = writing.files_of(gathering.facts_of(run, document, has_onnx=has_onnx))
        return checkpoint.write_together(directory, found)
    except OSError as error:
        return f"it cannot be written ({error.strerror or error})"
    except Exception as error:  # noqa: BLE001  a card draws whatever clients named and trained, and none may cost the model
        return f"writing it failed with {type(error).__name__} ({error!s:.200})"


def _write_onnx(path: Path, card: dict[str, Any], weights: Mapping[str, torch.Tensor], data: Prepared) -> File | str:
    """Writes a model as an ONNX file too, if that answers as the model does; or a clause that says why there is none.
    Whatever goes wrong with it, the model itself is there."""
    try:
        from services.training.export import checked  # takes a quarter of a second
    except ImportError as error:
        return f"onnx and onnxruntime cannot be imported ({error})"
    try:
        return checkpoint.write_atomically(path, checked.exported(card, weights, data))
    except checked.CannotExport as error:
        return str(error)
    except OSError as error:
        return f"it cannot be written ({error.strerror or error})"
    except Exception as error:  # noqa: BLE001  ONNX Runtime has errors of many kinds, and none may cost the model
        return f"its export failed with {type(error).__name__} ({error!s:.200})"


def check_answers(run: Run) -> None:
    """Raises NotFinite where the weights that a run keeps are not finite, or give no finite answer to a sample of any
    part. That of the last epoch was never asked before: its loss is from before its last update."""
    wrong = [name for name, tensor in run.model.state_dict().items() if not _is_finite(tensor)]
    if wrong:
        raise _not_finite(run, f"are not finite ({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''})")
    batches = run.state.batches
    fits = min(batches.micro or run.training.batch_size, batches.evaluation)  # as training has shown
    parts = (
        ("training", run.train_part, fits),
        ("validation", run.data.validation, batches.evaluation),
        ("test", run.data.test, batches.evaluation),
    )
    found = []
    for name, part, batch in parts:
        if part is not None and (missing := unanswered(run, part, batch)):
            unit = "steps" if part.by_step else "samples"
            found.append(f"{missing:,} of the {part.answers:,} {name} {unit}")
    if found:
        how = "" if run.training.precision == "float32" else f" (computed in {run.training.precision})"
        raise _not_finite(run, f"give no finite answer to {', '.join(found)}{how}")


def check_losses(run: Run, metrics: dict[str, float | None]) -> None:
    """Raises NotFinite where a loss of the weights that a run keeps is not finite: nothing says what they are worth."""
    for name, value in metrics.items():
        if name.endswith("_loss") and (value is None or not math.isfinite(value)):
            raise _not_finite(run, f"have a {name.replace('_', ' ')} that is not finite")


def _not_finite(run: Run, what: str) -> NotFinite:
    epoch = run.state.best.epoch if run.state.best else run.state.epoch
    if run.fold.number:
        what += f"; it was {run.fold.name}"
    return NotFinite(
        epoch=epoch,
        step=run.state.step,
        loss=math.nan,
        grad_norm=math.nan,
        lr=run.optimizer.param_groups[0]["lr"],
        summary=f"Training diverged: its best weights, those of epoch {epoch}, {what}.",
    )


def best_of(run: Run) -> BestEpoch | None:
    """Which epoch is the best so far, whose weights are the model's: its number, and what it was judged by."""
    if run.state.best is None:
        return None
    split = "validation" if run.data.validation is not None else "train"
    value = run.state.best.value if math.isfinite(run.state.best.value) else None
    epoch = len(run.fold.records) + run.state.best.epoch
    return BestEpoch(epoch, f"{split}_{run.training.best_by}", value)


def _train_metrics(epoch: Epoch) -> dict[str, float | None]:
    return {key: value for key, value in epoch.items() if key.startswith("train_")}


def _write_json(path: Path, document: dict[str, Any]) -> File:
    return checkpoint.write_atomically(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def _all_finite(values: tuple[float, ...]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
