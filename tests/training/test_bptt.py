"""Truncated back-propagation through time: windows with a carried state, beside plain PyTorch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from services.errors import Diverged, SpecInvalid
from services.training import checkpoint
from services.training.bptt import Carried, Unrolled, Window, WindowBatch, answer
from services.training.data import MiniBatch, batches_of, in_pieces
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, Update, answers, autograd_step, fit, in_rows, unanswered
from services.training.model import SequenceModel
from services.training.preparing import prepare
from services.training.rollback import roll_back
from services.training.spec import check_data, parse
from services.training.spec.footprint import footprint
from tests.training.building import (
    classes,
    document,
    events,
    forecast_spec,
    hourly,
    same,
    spec_for,
    tagged,
    timeless,
    trained,
    weights_of,
)
from tests.training.building import values as of_values

CPU = torch.device("cpu")
CELLS: tuple[dict[str, Any], ...] = (
    {"cell": "rnn"},
    {"cell": "rnn", "nonlinearity": "relu"},
    {"cell": "gru"},
    {"cell": "lstm"},
    {"cell": "lstm", "num_layers": 2},
    {"cell": "gru", "num_layers": 3},
)


def run_of(arrays: Arrays, **changes: Any) -> Run:
    """A run that has not begun, its data prepared as a job's."""
    spec = spec_for(arrays, **changes)
    return Run(spec, prepare(arrays, spec))


def in_windows(model: SequenceModel, part: Unrolled, batch: int = 3) -> Tensor:
    """What a model answers to all windows: (steps, outputs), one sequence after the other."""
    order, carried, found, places = part.order(batch, None), Carried(), [], []
    for rows, piece in zip(order.batches, batches_of(part, order, CPU), strict=True):
        outputs, carried = answer(model, piece, carried)
        found.append(outputs)
        places.append(part.places(rows))
    assert not len(carried.sequences)  # the last sequences have ended
    return in_rows(torch.cat(found), torch.from_numpy(np.concatenate(places)))


@pytest.mark.parametrize("architecture", CELLS, ids=lambda each: "-".join(map(str, each.values())))
@pytest.mark.parametrize("steps", [1, 3, 4, 50])
def test_windows_answer_as_the_whole_sequence_does(architecture: dict[str, Any], steps: int) -> None:
    """Bit for bit for most sizes; but a matrix product of another size may be summed in another order."""
    arrays = tagged(samples=9, length=13)
    whole = run_of(arrays, architecture=architecture)
    run = run_of(arrays, architecture=architecture, training={"bptt_steps": steps})
    assert same(run.model.state_dict(), whole.model.state_dict())
    assert isinstance(run.data.train, Unrolled)
    with torch.no_grad():
        expected = in_rows(*answers(whole.model, whole.data.train, CPU, "float32"))
        found = in_windows(run.model, run.data.train)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7)
    assert torch.equal(run.data.train.y, whole.data.train.y)


def plain_step(rnn: Any, head: nn.Linear, x: Tensor, y: Tensor, state: Any, optimizer: Any, bound: float) -> Any:
    """Truncated back-propagation as one writes it by hand: one window, and the state that goes on."""
    optimizer.zero_grad()
    outputs, state = rnn(x, state)
    loss = F.cross_entropy(head(outputs).flatten(0, 1), y.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_([*rnn.parameters(), *head.parameters()], bound)
    optimizer.step()
    state = tuple(each.detach() for each in state) if isinstance(state, tuple) else state.detach()
    return loss.item(), state


@pytest.mark.parametrize(("cell", "module"), [("rnn", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_training_is_that_of_a_loop_in_plain_pytorch(cell: str, module: type[nn.RNNBase]) -> None:
    """Ten sequences of 12 steps, five at a time, in windows of five steps; all weights after two epochs."""
    arrays = tagged(samples=12, length=12, full=True)
    training = {"epochs": 2, "batch_size": 5, "bptt_steps": 5, "max_grad_norm": 0.5}
    split = {"validation": 2 / 12}
    run = run_of(arrays, architecture={"cell": cell, "num_layers": 2}, training=training, data={"split": split})
    rnn = module(2, 5, 2, batch_first=True)
    head = nn.Linear(5, 3)
    rnn.load_state_dict(run.model.rnn.state_dict())
    head.load_state_dict(run.model.head.state_dict())
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=0.01)
    train = run.data.train
    assert isinstance(train, Unrolled)
    x = torch.from_numpy(arrays.x[run.data.rows["train"]])
    y = torch.from_numpy(arrays.y[run.data.rows["train"], :, 0])
    expected = []
    for epoch in (1, 2):
        firsts = train.order(5, (0, epoch)).batches[::3]  # three windows each; the rows of the first say which they are
        for rows in firsts:
            sequences, state = rows // 3, None
            for begin in (0, 5, 10):
                window = slice(begin, begin + 5)
                loss, state = plain_step(rnn, head, x[sequences, window], y[sequences, window], state, optimizer, 0.5)
                expected.append(loss)
    found = []
    for record in fit(run):
        if record is not None:
            found += [loss for loss, _ in run.take_reports()[1]]
            weights = weights_of(run)  # before those of the best epoch are put back
    assert len(found) == 12
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    for name, value in {**rnn.state_dict(prefix="rnn."), **head.state_dict(prefix="head.")}.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", [{"cell": "lstm", "num_layers": 2, "dropout": 0.3}, {"cell": "gru"}])
@pytest.mark.parametrize("after", [1, 3, 4, 8])
def test_a_run_goes_on_exactly_within_a_sequence(tmp_path: Path, architecture: dict[str, Any], after: int) -> None:
    arrays = tagged(samples=11, length=17)
    changes = {"architecture": architecture, "training": {"bptt_steps": 4, "batch_size": 3, "epochs": 2}}
    unbroken = run_of(arrays, **changes)
    trained(unbroken)
    run = run_of(arrays, **changes)
    for _ in islice(fit(run), after):
        pass
    has_ended = not len(run.state.carried.sequences)
    checkpoint.save(run, tmp_path)
    again = run_of(arrays, **changes)
    assert checkpoint.resume(again, tmp_path) is not None
    assert (not len(again.state.carried.sequences)) == has_ended
    trained(again)
    assert timeless(again.state.history) == timeless(unbroken.state.history)
    assert same(again.model.state_dict(), unbroken.model.state_dict())


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_half_precision_carries_its_state_and_goes_on_exactly(tmp_path: Path, cell: str) -> None:
    """Computed in float32 where this machine cannot do better."""
    arrays = tagged(samples=8, length=17)
    training = {"bptt_steps": 4, "batch_size": 4, "epochs": 2, "precision": "bf16"}
    changes: dict[str, Any] = {"architecture": {"cell": cell, "hidden_size": 16}, "training": training}
    unbroken = run_of(arrays, **changes)
    trained(unbroken)
    run = run_of(arrays, **changes)
    for _ in islice(fit(run), 3):
        pass
    assert len(run.state.carried.sequences)
    checkpoint.save(run, tmp_path)
    again = run_of(arrays, **changes)
    assert checkpoint.resume(again, tmp_path) is not None
    trained(again)
    assert timeless(again.state.history) == timeless(unbroken.state.history)


def test_a_run_that_diverges_within_a_sequence_goes_back_and_carries_nothing_over() -> None:
    arrays = tagged(samples=8, length=17)
    training = {"bptt_steps": 4, "batch_size": 4, "epochs": 3, "on_divergence": {"lr_factor": 0.5}}
    spec = spec_for(arrays, training=training)
    failures = iter([False] * 8 + [True] + [False] * 100)

    def step(run: Run, batches: list[MiniBatch]) -> Update:
        update = autograd_step(run, batches)
        if next(failures):
            raise run.diverged(run.state.step + 1, float("nan"), 1.0)
        return update

    run = Run(spec, prepare(arrays, spec), step=step)
    with pytest.raises(Diverged):
        trained(run)
    assert run.state.steps_in_epoch == 8 % run.steps_per_epoch > 0
    assert len(run.state.carried.sequences)
    assert roll_back(run)
    assert (run.state.epoch, run.state.carried.sequences.tolist()) == (1, [])
    assert len(trained(run)) == 2


def test_folds_are_trained_in_windows_too(tmp_path: Path) -> None:
    npz.write(tmp_path / "tags.npz", tagged(samples=24, length=19))
    asked = document(training={"epochs": 2, "bptt_steps": 4})
    asked["data"]["split"] = {"folds": 3, "test": 0.2}
    order = {"spec": parse(asked).document(), "data": str(tmp_path / "tags.npz"), "directory": str(tmp_path / "model")}
    told = [*events({**order, "device": "cpu"})]
    assert [each["event"] for each in told].count("epoch") == 8
    result = told[-1]["result"]
    [constant] = [each for words, each in result["baseline"]["others"].items() if words.startswith("the most frequent")]
    assert result["metrics"]["test_accuracy"] > constant["test_accuracy"]


def test_the_state_matters_and_begins_at_zero_in_each_sequence() -> None:
    """The tag of a step is the sign of the first step, five windows earlier."""
    rng = np.random.default_rng(0)
    x = np.zeros((40, 20, 1), np.float32)
    x[:, 0, 0] = rng.choice([-1.0, 1.0], 40)
    y = np.broadcast_to((x[:, :1] > 0).astype(np.int64), (40, 20, 1)).copy()
    arrays = Arrays(x=x, lengths=np.full(40, 20, np.int64), y=y)
    training = {"bptt_steps": 4, "batch_size": 8, "epochs": 40, "optimizer": {"name": "adam", "lr": 0.02}}
    run = run_of(arrays, architecture={"cell": "lstm", "hidden_size": 8}, training=training)
    assert trained(run)[-1]["validation_accuracy"] == 1.0


def test_micro_batches_give_the_same_update() -> None:
    arrays = tagged(samples=12, length=13)
    training = {"bptt_steps": 4, "batch_size": 6, "epochs": 1}
    whole, cut = (run_of(arrays, training=training) for _ in range(2))
    cut.state.batches.micro = 2
    assert timeless(trained(cut))[0] == pytest.approx(timeless(trained(whole))[0], rel=1e-5)
    assert unanswered(cut, cut.train_part, 2) == 0


def test_windows_of_one_update_follow_each_other() -> None:
    """With accumulation_steps the second window of an update begins where the first one ended."""
    arrays = tagged(samples=4, length=12, full=True)
    run = run_of(
        arrays,
        training={"bptt_steps": 6, "batch_size": 3, "epochs": 1, "accumulation_steps": 2, "max_grad_norm": None},
    )
    assert run.steps_per_epoch == 1
    part = run.data.train
    assert isinstance(part, Unrolled)
    outputs = in_windows(run.model, part)
    (update,) = [epoch for epoch in fit(run) if epoch is not None]
    assert update["train_loss"] == pytest.approx(float(F.cross_entropy(outputs, part.y).detach()), rel=1e-6)


def test_each_epoch_has_as_many_updates_whatever_is_drawn() -> None:
    run = run_of(tagged(samples=50, length=31), training={"bptt_steps": 4, "batch_size": 3})
    part = run.data.train
    assert isinstance(part, Unrolled)
    orders = [part.order(3, (0, epoch)) for epoch in range(1, 8)]
    assert len({len(order) for order in orders}) == 1
    assert len({np.concatenate(order.batches).tobytes() for order in orders}) == 7
    for order in orders:
        assert np.array_equal(np.sort(np.concatenate(order.batches)), np.arange(len(part)))
        places = np.concatenate([part.places(rows) for rows in order.batches])
        assert np.array_equal(np.sort(places), np.arange(part.answers))


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    length=st.integers(1, 45),
    batch=st.integers(1, 10),
    cut=st.none() | st.integers(1, 3),
    seed=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_every_step_is_read_once_and_after_the_one_before_it(
    sizes: list[int], length: int, batch: int, cut: int | None, seed: tuple[int, int] | None
) -> None:
    """Whatever the lengths are, and however batches are cut. A step holds its number."""
    steps = sum(sizes)
    of = np.array(sizes, np.int64)
    part = Unrolled(
        x=torch.arange(float(steps))[:, None],
        lengths=None,
        y=torch.arange(steps),
        by_step=True,
        begins=np.cumsum(of) - of,
        sizes=of,
        length=length,
    )
    order = part.order(batch, seed)
    order, counts = in_pieces(order, 1, cut, 1)
    assert sum(counts) == len(order)
    read: dict[int, list[int]] = {}
    carried, seen = Carried(), []
    for rows, piece in zip(order.batches, batches_of(part, order, CPU), strict=True):
        assert isinstance(piece, WindowBatch)
        window, lengths = piece.window, piece.lengths
        given_state = carried.of(window)
        assert window.is_first == (not given_state)
        ends = []
        for place, sequence in enumerate(window.sequences.tolist()):
            valid = piece.x.shape[1] if lengths is None else int(lengths[place])
            numbers = piece.x[place, :valid, 0].long().tolist()
            before = read.setdefault(sequence, [])
            if given_state:
                assert given_state[0][0, place].tolist() == [before[-1]]
            before += numbers
            ends.append(float(numbers[-1]))
            seen += numbers
        assert piece.y.tolist() == seen[len(seen) - len(piece.y) :] == part.y[part.places(rows)].tolist()
        carried = carried.after(window, (torch.tensor(ends).view(1, -1, 1),))
    assert not len(carried.sequences)
    assert sorted(seen) == list(range(steps))
    assert all(numbers == sorted(numbers) for numbers in read.values())


def test_what_is_carried_of_some_sequences_is_kept_for_them() -> None:
    state = (torch.arange(6.0).view(1, 3, 2),)
    carried = Carried(np.array([7, 2, 9]), state)
    some = Window(np.array([9, 7]), False, np.array([True, False]))
    assert torch.equal(carried.of(some)[0], state[0][:, [2, 0]])
    left = carried.after(some, (torch.full((1, 2, 2), 5.0),))
    assert left.sequences.tolist() == [2, 9]
    assert left.state[0].tolist() == [[[2.0, 3.0], [5.0, 5.0]]]
    assert carried.of(Window(np.array([3]), True, np.array([True]))) == ()


def test_layers_one_by_one_carry_their_states_too() -> None:
    model = run_of(tagged(), architecture={"cell": "lstm", "num_layers": 3}).model
    x, state = torch.randn(4, 6, 2), (torch.randn(3, 4, 5), torch.randn(3, 4, 5))
    found, expected = model._recur_layers_on(x, state), model._recur_on(x, None, state)
    torch.testing.assert_close(found, expected)


def test_a_relu_network_that_overflows_after_an_end_has_finite_gradients() -> None:
    model = run_of(tagged(), architecture={"cell": "rnn", "nonlinearity": "relu"}).model
    with torch.no_grad():
        for name, weight in model.rnn.named_parameters():
            weight.fill_(1e30 if name.startswith("weight_hh") else 1.0)
    lengths = torch.tensor([2, 1])
    outputs, state = model._recur_on(torch.ones(2, 4, 2), lengths, (torch.zeros(1, 2, 5),))
    assert state[0].shape == (1, 2, 5)
    outputs[[0, 1], [0, 0]].sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in model.rnn.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arrays", "what"),
    [(classes(), "here are classes"), (of_values(), "here are values")],
)
def test_targets_of_whole_sequences_are_refused(arrays: Arrays, what: str) -> None:
    with pytest.raises(SpecInvalid, match=f"{what}.*data.patch") as caught:
        spec_for(arrays, training={"bptt_steps": 4})
    assert [problem.pointer for problem in caught.value.problems] == ["/training/bptt_steps"]


def test_forecasts_are_refused() -> None:
    with pytest.raises(SpecInvalid, match=r"task\.lookback says how many steps it reads"):
        forecast_spec(hourly([60, 60]), training={"bptt_steps": 4})


@pytest.mark.parametrize("field", ["bidirectional", "batch_norm"])
def test_networks_that_need_whole_sequences_are_refused(field: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse(document(architecture={field: True}, training={"bptt_steps": 4}))
    assert [problem.pointer for problem in caught.value.problems] == [f"/architecture/{field}"]


def test_windows_need_less_memory() -> None:
    arrays = tagged(samples=8, length=90)
    summary = npz.summarise(arrays)
    long, short = (check_data(parse(document(training={"bptt_steps": n})), summary) for n in (None, 9))
    assert footprint(long, summary).sample == 10 * footprint(short, summary).sample


def test_a_spec_without_windows_has_the_hash_of_before() -> None:
    """A checkpoint of a version that knew no windows is one of such a spec."""
    without = spec_for(tagged()).document()
    before = {**without, "training": {k: v for k, v in without["training"].items() if k != "bptt_steps"}}
    assert checkpoint.essence(without) == checkpoint.essence(before)
    assert checkpoint.essence(spec_for(tagged(), training={"bptt_steps": 4}).document()) != checkpoint.essence(before)
