"""`python -m services.training`: the command as one runs it, from another folder, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from services.training.__main__ import main
from services.training.files import npz
from services.training.files.npz import Arrays
from tests import forking
from tests.training.building import classes, document, of_many_lengths

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "services.training"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder: neither the code's nor the spec's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def process(elsewhere: Path) -> Command:
    """Runs the command in a process of its own."""

    def run(*arguments: str | Path) -> Done:
        return forking.run(
            [*COMMAND, *map(str, arguments)],
            torch=True, cwd=elsewhere, env=ENVIRONMENT, capture_output=True, text=True, timeout=100,
        )  # fmt: skip

    return run


@pytest.fixture
def command(elsewhere: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs the command within this process, where torch is loaded already: a second instead of five."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Done:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as ended:  # argparse's way
            code = int(ended.code or 0)
        said = capfd.readouterr()
        return subprocess.CompletedProcess([], code, said.out, said.err)

    yield run
    torch.set_flush_denormal(False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A factory of specs in a folder, with `some.npz` beside them."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    npz.write(folder / "some.npz", of_many_lengths(classes(24)))

    def spec(text: str | None = None, **changes: Any) -> Path:
        path = folder / "job.yaml"
        path.write_text(text if text is not None else json.dumps(document(**changes)))
        return path

    return spec


YAML = """
name: small
architecture: {cell: gru, hidden_size: 5, bidirectional: true, batch_norm: true}
training: {epochs: 3, batch_size: 4, optimizer: {lr: 1e-2}}
data: {dataset: some.npz, split: {validation: 0.25}, scaling: standard}
"""


def test_a_spec_is_trained_with_the_data_beside_it_and_its_files_are_left(
    process: Command, command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    done = process(write(YAML), "--out", tmp_path / "runs" / "small", "--threads", "1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "small"

    history = json.loads((out / "history.json").read_text())
    assert list(history) == ["epochs"]
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3]
    assert all(np.isfinite(epoch["train_loss"]) for epoch in history["epochs"])

    weights = load_file(out / "model.safetensors")
    assert {"rnn.weight_ih_l0", "rnn.bias_hh_l0_reverse", "norm.running_mean", "head.weight"} <= weights.keys()
    assert weights["rnn.weight_ih_l0"].shape == (15, 3)

    card = json.loads((out / "model.json").read_text())
    assert card["spec"]["name"] == "small"
    assert (card["task"], card["classes"]) == ("classes", [0, 1, 2])
    assert card["scaling"]["name"] == "standard"
    assert len(card["scaling"]["shift"]) == 3
    assert card["metrics"].keys() == {"validation_loss", "validation_accuracy", "validation_macro_f1"}

    assert (out / "model.onnx").stat().st_size > 4 * sum(tensor.numel() for tensor in weights.values())

    lines = [line for line in done.stderr.splitlines() if "because compiled layers are not available" not in line]
    assert lines[0].startswith("Training ")
    assert lines[0].endswith("parameters on cpu, 1 threads: 3 epochs of 5 steps")
    assert [line.split()[:2] for line in lines[1:4]] == [["epoch", "1"], ["epoch", "2"], ["epoch", "3"]]
    assert "Trained after 3 epochs; the best was epoch" in done.stdout
    assert str(out / "model.safetensors") in done.stdout
    assert "  baseline               validation_accuracy " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    again = command(write(YAML), "--out", out, "--threads", "1", "--quiet")
    assert (again.returncode, again.stderr.splitlines()) == (0, lines[4:])  # warnings alone
    assert again.stdout == done.stdout  # the same numbers, to the last digit shown
    assert load_file(out / "model.safetensors").keys() == weights.keys()
    assert not list(out.glob("*.part"))


TEXTS = """\
architecture: {cell: gru, hidden_size: 8, pooling: max}
training: {epochs: 12, batch_size: 8, optimizer: {lr: 0.03}}
data: {dataset: NAME, split: {validation: 0.2, test: 0.2}, text: {min_count: 1}}
"""


@pytest.mark.parametrize("name", ["reviews.txt", "reviews.csv"])
def test_a_model_is_trained_from_a_file_of_texts(command: Command, tmp_path: Path, name: str) -> None:
    said = {"good": "a great room, and we slept well in it", "bad": "the room was cold, we never slept"}
    rows = [(f"{number} nights: {said[label]}", label) for number in range(30) for label in said]
    if name.endswith("txt"):
        lines = [f"{text}\t{label}" for text, label in rows]
    else:
        lines = ["review,mood", *(f'"{text}",{label}' for text, label in rows)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "job.yaml").write_text(TEXTS.replace("NAME", name))
    done = command(tmp_path / "job.yaml", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["format"], card["classes"]) == ("loopline-model/5", ["bad", "good"])
    assert card["metrics"]["test_accuracy"] == 1.0
    text = card["preprocessing"]["text"]
    assert (text["by"], card["spec"]["data"]["text"]["by"]) == ("words", "words")
    assert {"great", "cold", ","} <= set(text["entries"])
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert len(weights["embeddings.0.weight"]) == 2 + len(text["entries"])


def test_folds_are_shown_one_by_one_and_with_their_mean(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    done = command(
        write(data={"split": {"validation": None, "folds": 2}}, training={"epochs": 2}), "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    places = [line.partition("  loss")[0] for line in done.stderr.splitlines() if "  loss " in line]
    assert places[:4] == ["fold 1, epoch    1", "fold 1, epoch    2", "fold 2, epoch    1", "fold 2, epoch    2"]
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    lines = done.stdout.splitlines()
    assert lines[0] == "2 folds, by their validation parts:"
    losses = [f"{fold['metrics']['validation_loss']:.4f}" for fold in card["folds"]]
    [told] = [line.split() for line in lines if line.startswith("  validation_loss ")]
    assert told[1:3] == losses
    assert told[4] == f"{card['mean']['validation_loss']:.4f},"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    command: Command, write: Callable[..., Path], tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    spec = write(training={"epochs": 200, "batch_size": 64}, architecture={"hidden_size": 2})
    # Lines that nobody reads fill the pipe after some sixty epochs: it cannot have ended before it is interrupted.
    with forking.Popen(
        [*COMMAND, str(spec), "--out", str(out), "--threads", "1"],
        torch=True, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, pipesize=4096,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        while not running.stderr.readline().startswith("epoch"):
            assert running.poll() is None
        running.send_signal(sent)
        said = running.stderr.read()
    assert running.returncode == code
    assert said.endswith(f"Stopped. Go on with: python -m services.training {spec} --out {out} --resume\n")
    assert "Traceback" not in said
    (saved,) = out.glob("checkpoint-*.json")
    step = int(saved.stem.removeprefix("checkpoint-"))
    assert 1 <= step < 200

    done = command(spec, "--out", out, "--threads", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"going on after epoch {step} (step {step})" in done.stderr.splitlines()[0]
    history = json.loads((out / "history.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, 201))


def test_a_data_file_that_changed_is_refused_with_its_name(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    spec, out = write(), tmp_path / "out"
    assert command(spec, "--out", out, "--threads", "1", "--quiet").returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    npz.write(spec.parent / "some.npz", of_many_lengths(classes(24, seed=5)))
    said = problems_of(command(spec, "--out", out, "--threads", "1", "--resume"))
    assert f"The checkpoints in {out} are of other data: {spec.parent / 'some.npz'} has changed since" in said[0]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_that_diverges_ends_with_3(command: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    spec = write(
        architecture={"cell": "rnn", "nonlinearity": "relu"},
        training={"epochs": 50, "loss": "mse", "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 100.0}},
    )
    done = command(spec, "--out", tmp_path / "out", "--threads", "1", "--quiet")
    assert done.returncode == 3
    assert done.stderr.startswith("Training diverged at step ")
    assert "Traceback" not in done.stderr


def test_a_run_that_is_rolled_back_says_so_in_a_sentence(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    spec = write(
        architecture={"cell": "rnn", "nonlinearity": "relu"},
        training={
            "loss": "mse", "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 100.0},
            "on_divergence": {"lr_factor": 1e-4},
        },
    )  # fmt: skip
    done = command(spec, "--out", tmp_path / "out", "--threads", "1")
    assert done.returncode == 0, done.stderr
    line, advised = (line for line in done.stderr.splitlines() if "diverged" in line)
    assert advised == "advice: Training diverged once and was rolled back: lower training.optimizer.lr."
    assert line.startswith("Training diverged at step ")
    assert line.endswith("with learning rates multiplied by 0.0001 (rollback 1 of 2).")
    assert "Traceback" not in done.stderr


def test_a_device_that_is_too_small_ends_with_4_after_all_that_was_tried(
    command: Command, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("services.training.loop.autograd_step", step)
    monkeypatch.setattr("services.training.loop.compiled_step", step)
    done = command(write(), "--out", tmp_path / "out", "--threads", "1")
    assert done.returncode == 4
    lines = [line for line in done.stderr.splitlines() if line.startswith("The device ran out of memory at step 1")]
    assert [line.partition("micro-batches of ")[2][:1] for line in lines] == ["2", "1", ""]
    assert "with a single sample at a time" in lines[-1]
    assert "Traceback" not in done.stderr


def problems_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command that ended with 2 said, a problem a line."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


def test_every_problem_of_a_spec_is_listed(process: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    spec = write("architecture: {cell: gruu, dropout: 2}\ntraining: {epochs: none}\nqueue: A B\n")
    heading, *problems = problems_of(process(spec, "--out", tmp_path / "out"))
    assert heading == f"{spec}: The spec has 5 problems."
    assert [problem.split(":")[0].strip() for problem in problems] == [
        "/architecture/cell",
        "/architecture/dropout",
        "/training/epochs",
        "/data",
        "/queue",
    ]
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_no_spec_says_where(command: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    said = problems_of(command(write("architecture: [\n"), "--out", tmp_path / "out"))
    assert "line 1, column 15" in said[1]


def test_a_missing_spec_or_data_set_is_named(command: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    (said,) = problems_of(command(tmp_path / "no.yaml", "--out", tmp_path / "out"))
    assert said == f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory"
    spec = write(data={"dataset": "other.npz"})
    _, problem = problems_of(command(spec, "--out", tmp_path / "out"))
    assert problem.startswith(f"  /data/dataset: there is no file {spec.parent / 'other.npz'}")


def test_data_that_cannot_be_used_says_why(command: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    spec = write(data={"dataset": "bad.npz"})
    x = np.zeros((4, 3, 2), np.float32)
    x[2, 1, 0] = np.nan
    np.savez(spec.parent / "bad.npz", x=x, y=np.array([0, 1, 0, 1]))
    said = problems_of(command(spec, "--out", tmp_path / "out"))
    assert any("row 2" in line for line in said)


def test_a_column_that_a_file_does_not_have_is_told_with_the_file_and_the_place_in_the_spec(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    spec = write(data={"dataset": "walks.csv", "schema": {"target": "wera", "group": "machne"}})
    rows = "".join(f"m{row // 5},{row},{row % 7},{row // 5}.5\n" for row in range(40))
    (spec.parent / "walks.csv").write_text(f"machine,t,speed,wear\n{rows}")
    first, *problems = problems_of(command(spec, "--out", tmp_path / "out"))
    assert "walks.csv cannot be read as a data set: group: there is no column `machne`" in first
    assert problems == [
        "  /data/schema/group: group: there is no column `machne`; did you mean `machine`?",
        "  /data/schema/target: target: there is no column `wera`; did you mean `wear`?",
    ]


def test_a_spec_that_does_not_fit_its_data_says_why(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    spec = write(training={"loss": {"name": "cross_entropy", "class_weights": [1.0]}})
    _, problem = problems_of(command(spec, "--out", tmp_path / "out"))
    assert problem == "  /training/loss/class_weights: needs one weight for each of the 3 classes; got 1"


def test_a_place_that_is_no_folder_is_refused(command: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "is a file; name a folder" in problems_of(command(write(), "--out", tmp_path / "taken"))[0]


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_a_number_of_threads_is_a_number_of_threads(
    threads: str, command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    assert "invalid" in problems_of(command(write(), "--out", tmp_path / "out", "--threads", threads))[-1]


def test_a_device_that_is_not_there_is_refused(command: Command, write: Callable[..., Path], tmp_path: Path) -> None:
    (said, *_) = problems_of(command(write(), "--out", tmp_path / "out", "--device", "cuda:99"))
    assert "--device cuda:99: there is no such GPU" in said


def test_a_disk_that_refuses_ends_with_1_and_a_line(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")
    done = command(write(), "--out", tmp_path / "taken" / "below", "--threads", "1", "--quiet")
    assert done.returncode == 1
    below = tmp_path / "taken" / "below"
    assert done.stderr == f"Cannot write to {below}: Not a directory. Name another folder with --out.\n"


def test_help_shows_examples_and_exit_codes(process: Command) -> None:
    done = process("--help")
    assert done.returncode == 0
    assert "python -m services.training job.yaml --out runs/vowels\n" in done.stdout
    for code in ("0", "1", "2", "3", "130", "143"):
        assert f"\n  {code}  " in done.stdout
    for option in ("--out", "--resume", "--device", "--threads", "--quiet"):
        assert option in done.stdout


def test_a_bare_command_says_what_it_needs(command: Command) -> None:
    assert "required: job, --out" in problems_of(command())[-1]


def test_data_that_may_have_been_meant_otherwise_is_told_before_training(
    command: Command, write: Callable[..., Path], tmp_path: Path
) -> None:
    job = write()
    arrays = classes(24)
    npz.write(
        job.parent / "some.npz", Arrays(x=arrays.x, lengths=arrays.lengths, y=np.eye(3, dtype=np.int64)[arrays.y])
    )
    sentence = "warning: Each row of y has just one 1 in its 3 columns"
    loud = command(job, "--out", tmp_path / "loud", "--threads", "1")
    assert loud.returncode == 0
    assert loud.stderr.startswith(sentence)
    assert loud.stderr.splitlines()[1].startswith("Training ")
    quiet = command(job, "--out", tmp_path / "quiet", "--threads", "1", "--quiet")
    assert quiet.stderr.startswith(sentence)
    assert quiet.stderr.count("warning: ") == 1 + quiet.stderr.count("does not beat its baseline")
    said = command(write(training={"loss": "bce"}), "--out", tmp_path / "said", "--threads", "1", "--quiet")
    assert said.returncode == 0
    assert "Each row of y" not in said.stderr
