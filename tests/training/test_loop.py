"""The training loop against loops written by hand, and what it records, stops for and leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from services.errors import Diverged
from services.training.files.npz import Arrays
from services.training.loop import Run, _guard, autograd_step, evaluate, fit
from services.training.schedule import PlateauState, learning_rate
from tests.training.building import (
    classes,
    make_run,
    of_many_lengths,
    reports_of,
    same,
    timeless,
    trained,
    values,
    weights_of,
)

ADAM = {"name": "adam", "lr": 0.02, "weight_decay": 1e-3}
ADAMW = {"name": "adamw", "lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-6}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
RMSPROP = {"name": "rmsprop", "lr": 0.01, "momentum": 0.5, "alpha": 0.9, "weight_decay": 1e-3}
OPTIMIZERS = {
    "adam": (ADAM, lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=1e-3)),
    "adamw": (ADAMW, lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6)),
    "sgd": (SGD, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)),
    "rmsprop": (RMSPROP, lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, alpha=0.9, weight_decay=1e-3)),
}


class Plain(nn.Module):
    """What one would write by hand for a classifier of sequences."""

    def __init__(self, cell: type[nn.RNNBase], features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = cell(features, hidden, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@dataclass
class PlainResult:
    """What the loop by hand saw."""

    weights: dict[str, Tensor]
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


def plain_loop(run: Run, cell: type[nn.RNNBase], optimizer_of: Callable[[Any], torch.optim.Optimizer]) -> PlainResult:
    """Trains a network by hand on the run's batches: forward, backward, clip, update."""
    torch.manual_seed(run.training.seed)
    x, y = run.data.train.x, run.data.train.y
    model = Plain(cell, x.shape[2], run.spec.architecture.hidden_size, run.data.output_size)
    optimizer = optimizer_of(model.parameters())
    result = PlainResult({})
    for epoch in range(1, run.training.epochs + 1):
        for rows in run.order(epoch).batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), run.training.max_grad_norm or math.inf)
            optimizer.step()
            result.losses.append(loss.item())
            result.norms.append(norm.item())
    result.weights = model.state_dict()
    return result


def compared(cell: str, optimizer: dict[str, Any]) -> dict[str, Any]:
    """The spec of the loop by hand, for 22 samples: an uneven last batch."""
    return {
        "architecture": {"cell": cell, "num_layers": 2, "dropout": 0.2},
        "training": {"epochs": 3, "optimizer": optimizer, "max_grad_norm": 0.5, "seed": 3, "engine": "torch"},
        "data": {"split": {"validation": 0.0}},
    }


def losses_and_weights(run: Run) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    """The (loss, norm) of every update of a run, and the weights after the last of them."""
    seen, last = [], {}
    for epoch in fit(run):
        if epoch is not None:
            seen += run.take_reports()[1]
            last = weights_of(run)
    return seen, last


@pytest.mark.parametrize(("cell", "kind"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_the_loop_one_would_write_by_hand(cell: str, kind: type[nn.RNNBase], optimizer: str) -> None:
    named, by_hand = OPTIMIZERS[optimizer]
    spec = compared(cell, named)
    expected = plain_loop(make_run(classes(22), **spec), kind, by_hand)
    seen, last = losses_and_weights(make_run(classes(22), **spec))
    assert len(seen) == len(expected.losses) == 3 * 6
    # The same arithmetic in torch's fused and unfused optimizers rounds apart by a unit in the last place an update.
    assert [loss for loss, _ in seen] == pytest.approx(expected.losses, rel=2e-5)
    assert [norm for _, norm in seen] == pytest.approx(expected.norms, rel=5e-4)
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(last[name], tensor, rtol=0, atol=2e-5)


@pytest.mark.parametrize("cell", [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
@pytest.mark.parametrize(
    ("named", "by_hand"),
    [
        (ADAM, lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=1e-3, fused=True)),
        (SGD, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True)),
        (RMSPROP, OPTIMIZERS["rmsprop"][1]),
    ],
    ids=["adam", "sgd", "rmsprop"],
)
def test_with_the_same_optimizer_it_is_that_loop_bit_for_bit(
    cell: tuple[str, type[nn.RNNBase]], named: dict[str, Any], by_hand: Callable[[Any], torch.optim.Optimizer]
) -> None:
    spec = compared(cell[0], named)
    expected = plain_loop(make_run(classes(22), **spec), cell[1], by_hand)
    seen, last = losses_and_weights(make_run(classes(22), **spec))
    assert seen == list(zip(expected.losses, expected.norms, strict=True))
    assert same(last, expected.weights)


def test_an_update_of_no_decay_moves_every_weight() -> None:
    run = make_run()
    before = weights_of(run)
    next(fit(run))
    assert all(not torch.equal(before[name], tensor) for name, tensor in weights_of(run).items())


def test_two_runs_of_a_spec_are_one_and_another_seed_is_another() -> None:
    first, second, other = (make_run(training={"seed": seed}) for seed in (5, 5, 6))
    assert timeless(trained(first)) == timeless(trained(second)) != timeless(trained(other))
    assert same(weights_of(first), weights_of(second))


def test_fit_yields_once_an_update_and_an_epoch_as_each_ends() -> None:
    run = make_run()  # 18 training samples: 5 batches of 4
    yielded = list(fit(run))
    assert [epoch is not None for epoch in yielded] == [False, False, False, False, True] * 3
    assert [epoch["epoch"] for epoch in yielded if epoch] == [1, 2, 3]
    assert (run.state.step, run.state.epoch, run.steps_per_epoch, run.finished) == (15, 3, 5, True)
    assert run.state.history == [epoch for epoch in yielded if epoch]


def test_reports_are_contiguous_however_seldom_they_are_taken() -> None:
    often, seldom = make_run(), make_run()
    taken: dict[int, tuple[float, float]] = {}
    for _ in fit(often):
        first, reports = often.take_reports()
        assert len(reports) == 1
        taken |= {first: reports[0]}
    assert list(taken) == list(range(1, 16))
    for epoch in fit(seldom):
        if epoch is not None:
            first, reports = seldom.take_reports()
            assert first == seldom.state.step - 4
            assert reports == [taken[step] for step in range(first, first + 5)]
    assert seldom.take_reports() == (16, [])


# ---- clipping


def gradients_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """The gradients that reach torch's optimizer, update by update; fills as the run trains."""
    run.make_update = autograd_step
    seen: list[list[Tensor]] = []
    step = run.optimizer.step
    monkeypatch.setattr(
        run.optimizer,
        "step",
        lambda *a, **k: (seen.append([p.grad.clone() for p in run.parameters if p.grad is not None]), step(*a, **k))[1],
    )
    return seen


def norms(gradients: list[list[Tensor]]) -> list[float]:
    return [float(torch.cat([g.flatten() for g in some]).norm()) for some in gradients]


def test_what_is_recorded_is_the_norm_before_clipping_and_what_is_applied_is_within_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = make_run(training={"max_grad_norm": None, "epochs": 1, "engine": "torch"})
    first_norm = float(reports_of(free)[0, 1])
    run = make_run(training={"max_grad_norm": 0.3, "engine": "torch"})
    applied = gradients_seen(run, monkeypatch)
    measured = reports_of(run)[:, 1].tolist()
    assert measured[0] == first_norm
    clipped = [norm > 0.3 for norm in measured]
    assert any(clipped)
    for before, after in zip(measured, norms(applied), strict=True):
        assert after == pytest.approx(min(before, 0.3), rel=1e-5)
    for epoch, record in enumerate(run.state.history):
        part = slice(5 * epoch, 5 * epoch + 5)
        assert record["clipped_fraction"] == pytest.approx(np.mean(clipped[part]))
        assert record["grad_norm_mean"] == pytest.approx(np.mean(measured[part]))
        assert record["grad_norm_max"] == max(measured[part])


def test_a_bound_that_is_never_reached_changes_nothing() -> None:
    bound, free = (make_run(training={"max_grad_norm": most}) for most in (1e9, None))
    assert timeless(trained(bound)) == timeless(trained(free))
    assert same(weights_of(bound), weights_of(free))
    assert free.state.history[0]["clipped_fraction"] == 0.0
    assert free.state.history[0]["grad_norm_mean"] is not None


def test_clipping_by_value_bounds_every_element(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training={"max_grad_norm": None, "max_grad_value": 0.01})
    free = make_run(training={"max_grad_norm": None})
    applied, raw = gradients_seen(run, monkeypatch), gradients_seen(free, monkeypatch)
    measured = reports_of(run)[:, 1].tolist()
    trained(free)
    for bounded, whole in zip(applied[0], raw[0], strict=True):
        assert torch.equal(bounded, whole.clamp(-0.01, 0.01))
    assert max(float(g.abs().max()) for some in applied for g in some) <= np.float32(0.01)
    assert measured[0] == pytest.approx(norms(raw)[0])  # before clipping
    assert run.state.history[0]["clipped_fraction"] == 1.0


def test_value_comes_before_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training={"max_grad_norm": 0.02, "max_grad_value": 0.01})
    free = make_run(training={"max_grad_norm": None, "epochs": 1})
    applied, raw = gradients_seen(run, monkeypatch), gradients_seen(free, monkeypatch)
    trained(run)
    trained(free)
    expected = [p.detach().clone().requires_grad_() for p in raw[0]]
    for parameter, gradient in zip(expected, raw[0], strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_value_(expected, 0.01)
    nn.utils.clip_grad_norm_(expected, 0.02)
    for bounded, parameter in zip(applied[0], expected, strict=True):
        assert torch.equal(bounded, parameter.grad)  # type: ignore[arg-type]


# ---- accumulation


def batch_gradients(arrays: Arrays, monkeypatch: pytest.MonkeyPatch, **training: Any) -> tuple[Run, list[list[Tensor]]]:
    run = make_run(
        arrays,
        training={"epochs": 1, "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 1e-30}} | training,
        data={"split": {"validation": 0.0}, "bucketing": False},
    )
    applied = gradients_seen(run, monkeypatch)
    trained(run)
    return run, applied


@pytest.mark.parametrize(
    "loss",
    ["cross_entropy", {"name": "cross_entropy", "class_weights": [0.2, 1.0, 5.0], "label_smoothing": 0.1}],
    ids=["plain", "weighted"],
)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_micro_batches_make_the_update_of_one_large_batch(
    loss: Any, lengths: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = of_many_lengths(classes(26)) if lengths else classes(26)
    whole, at_once = batch_gradients(arrays, monkeypatch, batch_size=12, loss=loss)
    parts, gathered = batch_gradients(arrays, monkeypatch, batch_size=4, accumulation_steps=3, loss=loss)
    assert (whole.state.step, parts.state.step, parts.steps_per_epoch) == (3, 3, 3)  # of 12, 12 and 2 samples
    for one, many in zip(at_once, gathered, strict=True):
        for expected, found in zip(one, many, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for key in ("train_accuracy", "train_macro_f1", "epoch"):
        assert whole.state.history[0][key] == parts.state.history[0][key]
    assert whole.state.history[0]["train_loss"] == pytest.approx(parts.state.history[0]["train_loss"], rel=1e-5)
    assert whole.state.history[0]["grad_norm_max"] == pytest.approx(parts.state.history[0]["grad_norm_max"], rel=1e-5)


# ---- class weights


def of_two(common: int, rare: int, length: int = 4) -> Arrays:
    """Sequences that tell nothing of their classes, of which one is rare."""
    y = np.repeat([0, 1], [common, rare])
    return Arrays(x=np.ones((len(y), length, 2), np.float32), lengths=np.full(len(y), length), y=y)


def weighted_run(arrays: Arrays, batch_size: int, class_weights: Any, **training: Any) -> Run:
    loss = {"name": "cross_entropy", "class_weights": class_weights}
    return make_run(
        arrays,
        architecture={"hidden_size": 3},
        training={"batch_size": batch_size, "loss": loss, "epochs": 1, "max_grad_norm": None, **training},
        data={"split": {"validation": 0.0}},
    )


@pytest.mark.parametrize("batch_size", [1, 2, 60])
def test_balanced_classes_are_as_likely_as_each_other_at_every_batch_size(batch_size: int) -> None:
    steps = {1: 10, 2: 20, 60: 600}  # epochs for 600 updates
    run = weighted_run(
        of_two(54, 6),
        batch_size,
        "balanced",
        epochs=steps[batch_size],
        optimizer={"name": "sgd", "lr": 0.02},
        lr_schedule={"name": "cosine"},
    )
    trained(run)
    with torch.no_grad():
        rare = run.model(run.data.train.x[:1], None).softmax(dim=1)[0, 1]
    assert 0.4 < float(rare) < 0.6


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("micro", [None, 1, 2])
def test_weighted_gradients_of_an_epoch_are_the_same_however_it_is_cut(
    accumulation: int, micro: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(batch_size: int, accumulation: int, micro: int | None) -> tuple[Tensor, float]:
        run = weighted_run(
            classes(24),
            batch_size,
            [1.0, 50.0, 7.0],
            accumulation_steps=accumulation,
            optimizer={"name": "sgd", "lr": 1e-30},
        )
        run.state.batches.micro = micro
        applied = gradients_seen(run, monkeypatch)
        (record,) = trained(run)
        flat = [torch.cat([g.flatten() for g in gradients]) for gradients in applied]
        assert record["train_loss"] is not None
        return torch.stack(flat).double().mean(dim=0), record["train_loss"]  # all updates are of one size

    expected, loss = gradient(24, 1, None)
    for batch_size in (1, 2, 4, 8):
        found, other = gradient(batch_size, accumulation, micro)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert other == pytest.approx(loss, rel=1e-5)


def test_weights_act_in_batches_of_one_sample() -> None:
    plain, even, weighted = (weighted_run(of_two(12, 6), 1, weights) for weights in (None, [1.0, 1.0], [1.0, 50.0]))
    for run in (plain, even, weighted):
        trained(run)
    assert not same(weights_of(weighted), weights_of(even))
    for name, tensor in weights_of(plain).items():
        torch.testing.assert_close(weights_of(even)[name], tensor, rtol=1e-5, atol=1e-7)


def test_the_recorded_losses_are_weighted_against_the_training_samples() -> None:
    arrays = classes(24)
    arrays = Arrays(x=arrays.x, lengths=arrays.lengths, y=np.repeat([0, 1, 2], [14, 6, 4]))
    run = make_run(
        arrays,
        training={"epochs": 1, "loss": {"name": "cross_entropy", "class_weights": [1.0, 3.0, 50.0]}},
        data={"split": {"validation": 0.25, "stratify": False, "seed": 2}},
    )
    (record,) = trained(run)
    y, part = run.data.train.y, run.data.validation
    assert part is not None
    chosen = torch.tensor([1.0, 3.0, 50.0])
    assert float(chosen[part.y].mean()) != pytest.approx(float(chosen[y].mean()), rel=0.05)
    with torch.no_grad():
        run.model.eval()
        each = nn.functional.cross_entropy(run.model(part.x, None), part.y, reduction="none")
    by_hand = float((chosen[part.y] * each).mean() / chosen[y].mean())
    assert record["validation_loss"] == pytest.approx(by_hand, rel=1e-5)


# ---- what is recorded


def test_the_training_loss_is_a_mean_over_samples_not_batches() -> None:
    run = make_run(classes(22), data={"split": {"validation": 0.0}}, training={"epochs": 1})
    losses = reports_of(run)[:, 0].tolist()
    sizes = [4, 4, 4, 4, 4, 2]
    weighted = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 22
    assert run.state.history[0]["train_loss"] == pytest.approx(weighted, rel=1e-12)
    assert run.state.history[0]["train_loss"] != pytest.approx(np.mean(losses), rel=1e-6)


def test_a_record_holds_every_number_of_its_epoch() -> None:
    arrays = of_many_lengths(classes(40))
    run = make_run(arrays, training={"optimizer": {"name": "adam", "lr": 0.05}}, data={"split": {"test": 0.2}})
    record = trained(run)[0]
    assert list(record) == [
        "epoch", "train_loss", "validation_loss", "train_accuracy", "train_macro_f1", "validation_accuracy",
        "validation_macro_f1", "lr", "grad_norm_mean", "grad_norm_max", "clipped_fraction", "seconds",
        "samples_per_second",
    ]  # fmt: skip
    assert all(isinstance(value, int | float) for value in record.values())
    assert record["lr"] == 0.05
    assert record["samples_per_second"] == pytest.approx(22 / record["seconds"])  # type: ignore[operator]


def test_without_validation_its_numbers_are_left_out() -> None:
    record = trained(make_run(data={"split": {"validation": 0.0}}))[0]
    assert record["validation_loss"] is None
    assert "validation_accuracy" not in record


def test_values_are_judged_by_their_errors() -> None:
    run = make_run(values(60), training={"epochs": 30, "loss": "huber", "optimizer": {"name": "adam", "lr": 0.02}})
    records = trained(run)
    assert {"train_mae", "train_rmse", "train_r2", "validation_mae"} <= records[0].keys()
    assert records[-1]["train_r2"] > 0.5 > records[0]["train_r2"]  # type: ignore[operator]


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "bce"])
def test_every_loss_learns(loss: str) -> None:
    arrays = classes(40, kinds=2)
    run = make_run(arrays, training={"epochs": 15, "loss": loss, "optimizer": {"name": "adam", "lr": 0.05}})
    records = trained(run)
    assert records[-1]["train_loss"] < 0.7 * records[0]["train_loss"]  # type: ignore[operator]


def test_the_validation_numbers_are_those_of_the_weights_at_the_epochs_end() -> None:
    run = make_run(of_many_lengths(classes(40)), architecture={"num_layers": 2, "dropout": 0.5})
    for epoch in fit(run):
        if epoch is None:
            continue
        assert run.data.validation is not None
        part = run.data.validation
        run.model.eval()
        with torch.no_grad():
            outputs = torch.cat([run.model(part.x[i : i + 1, : part.lengths[i]]) for i in range(len(part))])  # type: ignore[index]
        run.model.train()
        expected = nn.functional.cross_entropy(outputs, part.y)
        assert epoch["validation_loss"] == pytest.approx(float(expected), rel=1e-5)
        assert epoch["validation_accuracy"] == float((outputs.argmax(1) == part.y).double().mean())


def test_looking_at_the_validation_split_does_not_change_the_run() -> None:
    spec: dict[str, Any] = {"architecture": {"num_layers": 2, "dropout": 0.4, "head_dropout": 0.3}}
    looked = make_run(**spec)
    for epoch in fit(looked):
        if epoch is not None and looked.data.validation is not None:
            evaluate(looked, looked.data.validation)
            assert looked.model.training
    left = make_run(**spec)
    trained(left)
    assert timeless(looked.state.history) == timeless(left.state.history)
    assert same(weights_of(looked), weights_of(left))


def test_batch_norm_statistics_are_not_touched_by_evaluation() -> None:
    run = make_run(architecture={"batch_norm": True}, training={"epochs": 1})
    trained(run)
    assert int(run.model.state_dict()["norm.num_batches_tracked"]) == run.state.step


def test_a_last_batch_of_one_sample_does_not_break_batch_norm() -> None:
    run = make_run(classes(21), architecture={"batch_norm": True}, data={"split": {"validation": 0.0}})
    records = trained(run)
    assert run.steps_per_epoch == 5
    assert all(math.isfinite(record["train_loss"]) for record in records)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "one_cycle", "plateau"])
def test_each_update_has_the_rate_of_its_schedule(name: str) -> None:
    schedule = {"name": name, "patience": 0, "threshold": 0.5} if name == "plateau" else {"name": name}
    schedule |= {"step_size": 2} if name == "step" else {}
    schedule |= {"warmup_steps": 3} if name != "one_cycle" else {}
    run = make_run(training={"lr_schedule": schedule, "epochs": 6})
    plateau, ours, applied = PlateauState(), run.training.lr_schedule, []
    for number, epoch in enumerate(fit(run)):
        applied.append(run.optimizer.param_groups[0]["lr"])
        expected = learning_rate(ours, 0.01, step=number, epoch=number // 5 + 1, total_steps=30, plateau=plateau)
        assert applied[-1] == expected
        if epoch is not None:
            assert epoch["lr"] == applied[-1]
            if name == "plateau":
                plateau.see(epoch["validation_loss"], ours)  # type: ignore[arg-type]
    assert len(applied) == 30
    assert (len(set(applied)) > 3) == (name != "constant") or len(set(applied)) == 3


# ---- the best, and stopping


def memorising(**training: Any) -> Run:
    """A run that learns noise by heart: its validation loss rises soon."""
    rng = np.random.default_rng(0)
    arrays = Arrays(
        x=rng.standard_normal((40, 5, 3)).astype(np.float32),
        lengths=np.full(40, 5, np.int64),
        y=rng.integers(0, 2, 40),
    )
    return make_run(
        arrays,
        architecture={"hidden_size": 16},
        training={"epochs": 40, "optimizer": {"name": "adam", "lr": 0.03}, **training},
    )


def weights_after_each_epoch(run: Run) -> list[dict[str, Tensor]]:
    return [weights_of(run) for epoch in fit(run) if epoch is not None]


@pytest.mark.parametrize("stopping", [None, {"patience": 4}])
def test_the_best_weights_are_what_one_gets_however_the_run_ends(stopping: dict[str, int] | None) -> None:
    run = memorising(early_stopping=stopping)
    seen = weights_after_each_epoch(run)
    losses = [record["validation_loss"] for record in run.state.history]
    best = int(np.argmin(losses))  # type: ignore[arg-type]
    assert 0 < best < len(losses) - 1
    assert run.state.best is not None
    assert (run.state.best.epoch, run.state.best.value) == (best + 1, losses[best])
    assert same(weights_of(run), seen[best])
    assert not same(seen[best], seen[-1])
    assert run.state.stopping.stopped == (stopping is not None)
    assert len(seen) == (40 if stopping is None else best + 1 + 4)


def test_the_last_weights_are_what_one_gets_if_they_are_to_be_kept() -> None:
    run = memorising(keep="last")
    seen = weights_after_each_epoch(run)
    assert run.state.best is not None
    assert (run.state.best.epoch, len(seen)) == (40, 40)
    assert same(weights_of(run), seen[-1])


def test_the_best_may_be_judged_by_another_metric() -> None:
    run = memorising(best_by="accuracy", epochs=15)
    trained(run)
    accuracies = [record["validation_accuracy"] for record in run.state.history]
    assert run.state.best is not None
    assert run.state.best.epoch == int(np.argmax(accuracies)) + 1  # type: ignore[arg-type]  (the first of equals)


def test_an_improvement_below_min_delta_is_kept_but_does_not_put_off_the_end() -> None:
    run = memorising(early_stopping={"patience": 3, "min_delta": 10.0})
    trained(run)
    assert (run.state.epoch, run.state.stopping.stopped) == (4, True)
    assert run.state.best is not None
    assert run.state.best.value == min(record["validation_loss"] for record in run.state.history)  # type: ignore[type-var]


def test_without_validation_the_training_numbers_choose_the_best() -> None:
    run = make_run(data={"split": {"validation": 0.0}}, training={"epochs": 6})
    trained(run)
    losses = [record["train_loss"] for record in run.state.history]
    assert run.state.best is not None
    assert run.state.best.epoch == int(np.argmin(losses)) + 1  # type: ignore[arg-type]


def test_without_validation_early_stopping_watches_the_training_numbers() -> None:
    stopping = {"patience": 3, "min_delta": 10.0}
    run = make_run(data={"split": {"validation": 0.0}}, training={"epochs": 20, "early_stopping": stopping})
    assert run.data.validation is None
    trained(run)
    assert (run.state.epoch, run.state.stopping.stopped, run.state.stopping.best) == (
        4,
        True,
        run.state.history[0]["train_loss"],
    )


def far_off(**training: Any) -> Run:
    """A run whose validation samples lie where float32 ends, so that their loss is not finite."""
    arrays = classes(16)
    split = np.repeat(np.array([0, 1], np.int8), [12, 4])
    x = arrays.x.copy()
    x[12:] = np.finfo(np.float32).max
    arrays = Arrays(x=x, lengths=arrays.lengths, y=arrays.y, split=split)
    run = make_run(
        arrays,
        architecture={"cell": "rnn", "nonlinearity": "relu"},
        data={"split": {"validation": "given"}},
        training=training,
    )
    with torch.no_grad():
        run.model.rnn.weight_ih_l0.abs_().add_(1.0)
    return run


def test_a_validation_loss_that_is_not_finite_is_recorded_and_training_goes_on() -> None:
    run = far_off(epochs=4, early_stopping={"patience": 2}, lr_schedule={"name": "plateau", "patience": 0})
    records = trained(run)
    assert records[0]["validation_loss"] is None
    assert all(math.isfinite(record["train_loss"]) for record in records)  # type: ignore[arg-type]
    assert run.state.best is not None
    assert run.state.stopping.stopped
    assert run.state.plateau.share < 1.0


# ---- divergence


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_the_run_before_the_weights_are_touched(what: str) -> None:
    arrays = classes(24)
    training = {"max_grad_norm": None, "optimizer": {"name": "adam", "lr": 0.01}, "engine": "torch"}
    run = make_run(arrays, training=training)
    loop, before = fit(run), {}
    for _ in range(7):
        next(loop)
        before = weights_of(run)
    loss = run.loss
    steep = {"loss": math.nan, "gradient": 1.0}[what]  # the root of 0 has no finite slope
    run.loss = lambda outputs, y: loss(outputs, y) * steep + (outputs - outputs.detach()).abs().sqrt().sum()
    with pytest.raises(Diverged) as caught:
        next(loop)
    assert (caught.value.step, caught.value.epoch, caught.value.lr) == (8, 2, 0.01)
    assert math.isfinite(caught.value.loss) == (what == "gradient")
    assert not math.isfinite(caught.value.grad_norm)
    assert "step 8 (epoch 2)" in caught.value.message
    assert "learning rate 0.01" in caught.value.message
    assert same(weights_of(run), before)


def test_a_learning_rate_that_is_far_too_high_diverges_and_says_so() -> None:
    run = make_run(
        values(40),
        architecture={"cell": "rnn", "nonlinearity": "relu"},
        training={"epochs": 50, "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 100.0}},
    )
    seen = [weights_of(run)]
    with pytest.raises(Diverged, match=r"Try a lower optimizer\.lr") as caught:
        seen.extend(weights_of(run) for _ in fit(run))
    before = seen[-1]
    assert caught.value.lr == 100.0
    assert caught.value.step == run.state.step + 1
    assert same(weights_of(run), before)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in before.values())


def test_batch_statistics_are_those_of_before_the_bad_update_too() -> None:
    run = make_run(
        values(40),
        architecture={"cell": "rnn", "nonlinearity": "relu", "batch_norm": True},
        training={"epochs": 50, "max_grad_norm": None, "optimizer": {"name": "sgd", "lr": 100.0}},
    )
    seen = [weights_of(run)]
    with pytest.raises(Diverged):
        seen.extend(weights_of(run) for _ in fit(run))
    assert same(weights_of(run), seen[-1])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in seen[-1].values())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_guard_on_a_device_keeps_what_was_before_or_stops_at_once(optimizer: str) -> None:
    """What a GPU's guard does to tensors and to the host, done on the CPU."""
    run = make_run(
        classes(24), architecture={"batch_norm": True}, training={"optimizer": {"name": optimizer, "lr": 0.01}}
    )
    loop = fit(run)
    next(loop)
    run.device = torch.device("cuda")  # only a name: nothing is placed there
    before = [statistic.clone() for statistic in run.statistics]
    one, bad = torch.tensor(1.0), torch.tensor(math.nan)
    run.statistics[0].add_(1.0)
    _guard(run, one, one, before)
    moved = [statistic.clone() for statistic in run.statistics]
    assert not torch.equal(moved[0], before[0])
    for loss, norm in ((one, bad), (one, one)):  # the second comes after the first, and halts as well
        run.statistics[0].fill_(math.nan)
        if optimizer == "rmsprop":  # torch's does not heed the flag, and would take the bad gradient
            with pytest.raises(Diverged) as caught:
                _guard(run, loss, norm, moved)
            assert caught.value.step == run.state.step + 1
        else:
            _guard(run, loss, norm, moved)
        assert float(run.halted) == 1.0
        assert all(torch.equal(now, was) for now, was in zip(run.statistics, moved, strict=True))


def test_clipping_keeps_alive_what_would_diverge() -> None:
    run = make_run(
        values(40),
        architecture={"cell": "rnn", "nonlinearity": "relu"},
        training={"epochs": 10, "max_grad_norm": 1.0, "optimizer": {"name": "sgd", "lr": 0.1}},
    )
    assert len(trained(run)) == 10


# ---- precision


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_lower_precision_trains_near_float32(cell: str, precision: str, lengths: bool) -> None:
    arrays = of_many_lengths(classes()) if lengths else classes()
    runs = [
        make_run(arrays, architecture={"cell": cell, "bidirectional": True}, training={"precision": p, "epochs": 2})
        for p in ("float32", precision)
    ]
    whole, half = (reports_of(run) for run in runs)
    torch.testing.assert_close(half[:, 0], whole[:, 0], rtol=0.05, atol=0.02)
    torch.testing.assert_close(
        half[:, 1], whole[:, 1], rtol=0.15, atol=0.05
    )  # unscaled, or it would be 65536 times that
    assert runs[1].state.history[-1]["validation_loss"] == pytest.approx(
        runs[0].state.history[-1]["validation_loss"], rel=0.05
    )
    assert all(tensor.dtype == torch.float32 for name, tensor in weights_of(runs[1]).items())


def test_fp16_clips_gradients_that_were_unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training={"precision": "fp16", "max_grad_norm": 0.1, "epochs": 1})
    applied = gradients_seen(run, monkeypatch)
    measured = reports_of(run)[:, 1].tolist()
    assert run.scaler is not None
    assert run.scaler.get_scale() == 65536.0
    assert len(applied) == 5
    for before, after in zip(measured, norms(applied), strict=True):
        assert 0.1 < before < 100
        assert after == pytest.approx(0.1, rel=1e-3)


def test_fp16_skips_an_update_that_overflows_and_halves_the_scale() -> None:
    run = make_run(training={"precision": "fp16"})
    assert run.scaler is not None
    loop = fit(run)
    next(loop)
    before, scale = weights_of(run), run.scaler.get_scale()
    loss = run.loss
    run.loss = lambda outputs, y: loss(outputs, y) * 1e36
    next(loop)
    assert same(weights_of(run), before)
    assert run.scaler.get_scale() == scale / 2
    run.loss = loss
    next(loop)
    assert not same(weights_of(run), before)
    (_, first), (_, second), (_, third) = run.take_reports()[1]
    assert math.isfinite(first)
    assert not math.isfinite(second)
    assert math.isfinite(third)
    record = next(epoch for epoch in loop if epoch is not None)
    assert math.isfinite(record["grad_norm_max"])  # type: ignore[arg-type]


def test_fp16_that_overflows_for_ever_is_diverged() -> None:
    run = make_run(training={"precision": "fp16", "epochs": 20})
    loss = run.loss
    run.loss = lambda outputs, y: loss(outputs, y) * 1e36
    before = weights_of(run)
    with pytest.raises(Diverged):
        trained(run)
    assert same(weights_of(run), before)
