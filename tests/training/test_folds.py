"""Cross-validation: k runs and a final model in one order, and that it is the same wherever it was interrupted."""

from __future__ import annotations

import functools
import itertools
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline.files import store
from safetensors.torch import load_file

from services.errors import DatasetInvalid, Diverged, Invalid
from services.training import checkpoint, folds, loop, rivals
from services.training.data import MiniBatch, prepare
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, Update, fit
from services.training.messages import NEWEST
from services.training.spec import check_data, parse
from services.training.splits import split_folds
from tests.training.building import (
    as_sequences,
    classes,
    document,
    events,
    make_run,
    mixed,
    of_many_lengths,
    same,
    tagged,
    timeless,
    trained,
)

Event = dict[str, Any]
Unbroken = Callable[..., tuple[Event, list[Event]]]
ARRAYS = of_many_lengths(classes(48), least=2)
FOLDS = 3
CARD = {"README.md", "loss.svg", "gradients.svg"}
RESULT = {"model.safetensors", "model.json", "history.json", "model.onnx", *CARD}
CHANGES: dict[str, Any] = {
    "architecture": {"num_layers": 2, "dropout": 0.3},
    "training": {"epochs": 6, "early_stopping": {"patience": 2}, "optimizer": {"name": "adam", "lr": 0.05}},
    "data": {"split": {"validation": None, "test": 0.25, "folds": FOLDS}, "scaling": "standard"},
    "checkpoints": {"every_seconds": None, "every_steps": 4, "keep_last": 2},
}
"""So fast that folds stop early, each at another epoch."""


def spec(**changes: Any) -> dict[str, Any]:
    asked = document(**CHANGES)
    for name, change in changes.items():
        asked[name] = {**asked[name], **change}
    return asked


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Event]:
    """A factory of orders in folders of this test."""

    return functools.partial(order_in, tmp_path)


def order_in(place: Path, folder: str = "job", arrays: Arrays = ARRAYS, **changes: Any) -> Event:
    data = place / f"{folder}.npz"
    npz.write(data, arrays)
    asked = parse(spec(**changes)).document()
    return {"spec": asked, "data": str(data), "directory": str(place / folder), "resume": None}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """A factory of jobs that ran through: the order and what was told. Each is trained once for all tests, which must
    not change it."""

    @functools.cache
    def train(changes: str) -> tuple[Event, list[Event]]:
        asked = order_in(tmp_path_factory.mktemp("unbroken"), training=json.loads(changes))
        return asked, list(events(asked))

    return lambda **training: train(json.dumps(training))


def after(updates: int, reason: str = "drain") -> Callable[[], str | None]:
    """A stop that comes after it was asked for so many times, and stays."""
    count = itertools.count(1)
    return lambda: reason if next(count) >= updates else None


def of(kind: str, told: list[Event]) -> list[Event]:
    return [event for event in told if event["event"] == kind]


def records(told: list[Event]) -> list[dict[str, Any]]:
    return timeless([event["record"] for event in of("epoch", told)])


def steps_of(told: list[Event]) -> list[tuple[int, int, float, float]]:
    """(fold, step, loss, norm) of each update."""
    return [
        (event["fold"], event["first_step"] + place, *pair)
        for event in of("steps", told)
        for place, pair in enumerate(zip(event["loss"], event["grad_norm"], strict=True))
    ]


def weights(asked: Event) -> dict[str, torch.Tensor]:
    return load_file(Path(asked["directory"]) / "model.safetensors")


def plain(arrays: Arrays, seed: int, **changes: Any) -> Run:
    """The run of a job without folds whose split is that of the data set."""
    asked = spec(data={"split": {"validation": None, "test": None, "method": "given"}, "scaling": "standard"})
    asked["training"] |= {"seed": seed, **changes}
    met = check_data(parse(asked), npz.summarise(arrays))
    return Run(met, prepare(arrays, met))


def marked(arrays: Arrays, parts: dict[str, Any]) -> Arrays:
    marks = np.zeros(len(arrays), np.int8)
    for code, name in ((1, "validation"), (2, "test")):
        marks[parts[name]] = code
    return replace(arrays, split=marks)


# ---- what is told and what comes of it


def test_each_fold_is_told_one_after_the_other_and_then_the_final_model(
    unbroken: Unbroken,
) -> None:
    asked, told = unbroken()
    first, result = told[FOLDS], told[-1]["result"]
    sizes = [fold["samples"] for fold in result["folds"]]
    assert [event["message"] for event in told[:FOLDS]] == [
        f"Fold {number} of 3 has {size['train']} samples to train on and {size['validation']} for validation."
        for number, size in enumerate(sizes, 1)
    ]
    assert first["event"] == "started"
    assert (first["fold"]["number"], first["fold"]["folds"], first["epochs"]) == (1, FOLDS, 4 * 6)
    assert first["resumed_from"] is None
    found = records(told)
    assert [record["epoch"] for record in found] == list(range(1, len(found) + 1))  # over the whole job
    by_fold = {
        fold: [record["fold_epoch"] for record in found if record["fold"] == fold] for fold in range(1, FOLDS + 2)
    }
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_fold.values())
    assert [len(by_fold[fold["fold"]]) for fold in result["folds"]] == [fold["epochs"] for fold in result["folds"]]
    steps = steps_of(told)
    assert [step for _, step, *_ in steps] == list(range(1, len(steps) + 1))
    begun = [event["fold"] for event in of("fold", told)]
    assert [fold["number"] for fold in begun] == [2, 3, 4]
    assert [fold["epochs_before"] for fold in begun] == [
        sum(fold["epochs"] for fold in result["folds"][:count]) for count in (1, 2, 3)
    ]
    last = begun[-1]
    assert (last["total_epochs"], last["total_steps"]) == (len(found), len(steps))  # nothing is a guess any more
    totals = [first["fold"]["total_steps"], *(fold["total_steps"] for fold in begun)]
    assert totals == sorted(totals, reverse=True)  # a fold that stops early shortens the job
    assert [event["fold"] for event in of("checkpoint", told)] == sorted(
        event["fold"] for event in of("checkpoint", told)
    )
    history = json.loads((Path(asked["directory"]) / "history.json").read_text())
    assert history["epochs"] == [event["record"] for event in of("epoch", told)]


def test_the_result_has_each_fold_their_mean_and_their_spread(
    unbroken: Unbroken,
) -> None:
    asked, told = unbroken()
    result = told[-1]["result"]
    assert any(fold["stopped_early"] for fold in result["folds"])
    assert len({fold["best_epoch"] for fold in result["folds"]}) > 1
    for fold in result["folds"]:
        epochs = [record for record in records(told) if record["fold"] == fold["fold"]]
        best = min(epochs, key=lambda record: record["validation_loss"])
        assert best["fold_epoch"] == fold["best_epoch"]
        for name, value in fold["metrics"].items():
            assert value == pytest.approx(best[name], abs=1e-6)  # other batches of evaluation
    losses = [fold["metrics"]["validation_loss"] for fold in result["folds"]]
    assert result["mean"]["validation_loss"] == pytest.approx(statistics.fmean(losses))
    assert result["std"]["validation_loss"] == pytest.approx(np.std(losses, ddof=1))
    assert result["mean"].keys() == result["std"].keys() == result["folds"][0]["metrics"].keys()
    card = json.loads((Path(asked["directory"]) / "model.json").read_text())
    assert {name: card[name] for name in ("folds", "mean", "std")} == {
        name: result[name] for name in ("folds", "mean", "std")
    }
    assert card["spec"]["data"]["split"]["folds"] == FOLDS
    notes = [note for note in of("note", told) if note["type"] == "fold"]
    assert [note["data"] for note in notes] == result["folds"]
    assert notes[1]["message"].startswith("Fold 2 of 3 ended: validation_loss ")


def test_the_final_model_trains_for_the_mean_of_the_best_epochs_and_is_tested_once(
    unbroken: Unbroken,
) -> None:
    asked, told = unbroken()
    result = told[-1]["result"]
    mean = statistics.fmean(fold["best_epoch"] for fold in result["folds"])
    assert result["best_epoch"] == result["epochs"] == int(mean + 0.5)
    tested = {key for key in result["metrics"] if not key.startswith("train_")}
    assert tested == {"test_loss", "test_accuracy", "test_macro_f1"}
    assert {key for record in records(told) for key in record if key.startswith("test_")} == set()
    assert all(record["validation_loss"] is None for record in records(told) if record["fold"] == FOLDS + 1)
    # As one without folds that trains so long on all but the test, and keeps the last epoch.
    parts = split_folds(ARRAYS, parse(asked["spec"]).data.split)[-1]
    alone = plain(marked(ARRAYS, parts), 0, early_stopping=None)
    for _ in itertools.islice((epoch for epoch in fit(alone) if epoch is not None), result["epochs"]):
        pass
    assert same(weights(asked), alone.model.state_dict())


def test_without_a_test_the_baseline_is_beaten_by_folds_or_not_at_all(order: Callable[..., Event]) -> None:
    noise = replace(ARRAYS, y=np.random.default_rng(5).permutation(ARRAYS.y))
    changes = {"split": {"validation": None, "test": 0.0, "folds": FOLDS}}
    asked = order(arrays=noise, data=changes, training={"epochs": 30, "early_stopping": None, "keep": "last"})
    told = list(events(asked))
    result = told[-1]["result"]
    found = result["baseline"]
    plain = statistics.fmean(fold["baseline"]["metrics"]["validation_accuracy"] for fold in result["folds"])
    assert result["metrics"]["train_accuracy"] > found["metrics"]["train_accuracy"]  # learnt by heart
    assert found["metric"] == "validation_accuracy"
    assert found["metrics"]["validation_accuracy"] == pytest.approx(plain)
    assert not found["is_beaten"]
    judged = sum(fold["samples"]["validation"] for fold in result["folds"])
    assert found["interval"] == [*rivals.wilson(result["mean"]["validation_accuracy"], judged)]
    [said] = [event for event in of("note", told) if event["type"] == "baseline"]
    assert "no better than its baseline" in said["message"] or "does not beat its baseline" in said["message"]
    assert said["message"] in (Path(asked["directory"]) / "README.md").read_text()


@pytest.mark.parametrize(("samples", "is_beaten"), [(10, False), (1000, True)])
def test_folds_of_whole_groups_claim_no_more_than_of_as_many_sequences(samples: int, is_beaten: bool) -> None:
    """Each of three folds is right in 60 %, and its baseline in 50 %."""
    arrays = replace(ARRAYS, groups=np.array([f"g{row % 6}" for row in range(len(ARRAYS))]))
    run = make_run(arrays, data={"split": {"method": "group", "validation": 0.2}})
    plain = {"answer": "a constant", "metric": "validation_accuracy", "metrics": {"validation_accuracy": 0.5}}
    result = {
        "baseline": {**plain, "interval": None},
        "metrics": {"validation_accuracy": 0.6},
        "samples": {"validation": samples},
    }
    run.fold = replace(run.fold, results=[result] * 3)
    found = folds.compared(run, {"metrics": {}})
    assert (found["is_beaten"], found["interval"]) == (is_beaten, None)


def test_a_final_model_without_a_test_knows_that_it_is_the_best_of_many_trials(order: Callable[..., Event]) -> None:
    changes = {"split": {"validation": None, "test": 0.0, "folds": FOLDS}}
    selection = {"search": "search_1", "trials": 20, "metric": "validation_loss", "value": 0.5}
    asked = order(data=changes, training={"epochs": 2, "early_stopping": None, "keep": "last"})
    result = list(events({**asked, "selection": selection}))[-1]["result"]
    judged = sum(fold["samples"]["validation"] for fold in result["folds"])
    accuracy = result["mean"]["validation_accuracy"]
    assert result["baseline"]["interval"] == [*rivals.wilson(accuracy, judged, 20)]
    assert result["selection"] == selection
    card = (Path(asked["directory"]) / "README.md").read_text()
    assert "Its settings are those of the best of 20 trials of a search, by validation loss: 0.5." in card


def test_folds_that_keep_the_last_epoch_train_a_final_model_for_as_many(order: Callable[..., Event]) -> None:
    told = list(events(order(training={"keep": "last", "early_stopping": None, "epochs": 3})))
    result = told[-1]["result"]
    assert [fold["best_epoch"] for fold in result["folds"]] == [3] * FOLDS
    assert result["epochs"] == 3


@pytest.mark.parametrize("fold", range(1, FOLDS + 1))
def test_a_fold_is_the_job_whose_split_is_given_with_the_same_rows(fold: int, unbroken: Unbroken) -> None:
    asked, told = unbroken(seed=5)
    parts = split_folds(ARRAYS, parse(asked["spec"]).data.split)
    rows = {"validation": parts[fold - 1]["validation"], "test": parts[-1]["test"]}
    alone = timeless(trained(plain(marked(ARRAYS, rows), 5 + fold - 1)))
    of_fold = [record for record in records(told) if record["fold"] == fold]
    places = ("epoch", "fold", "fold_epoch")
    numbers = [{key: value for key, value in record.items() if key not in places} for record in of_fold]
    assert numbers == [{key: value for key, value in record.items() if key not in places} for record in alone]
    assert told[-1]["result"]["folds"][fold - 1]["seed"] == 5 + fold - 1


# ---- nothing leaks


def test_a_fold_learns_nothing_from_its_validation_part_and_none_from_the_test(order: Callable[..., Event]) -> None:
    """Neither weights nor scaling: other numbers there change nothing but what is judged by them."""
    parts = split_folds(ARRAYS, parse(spec()).data.split)
    told = list(events(order(training={"early_stopping": None})))
    for fold, rows in ((1, parts[0]["validation"]), (2, parts[1]["validation"]), (None, parts[-1]["test"])):
        x = ARRAYS.x.copy()
        x[rows] *= 100.0
        other = list(events(order("other", replace(ARRAYS, x=x), training={"early_stopping": None})))
        learnt = [
            [(record["train_loss"], record["grad_norm_max"]) for record in records(each) if record["fold"] == number]
            for number in range(1, FOLDS + 1)
            for each in (told, other)
        ]
        alike = {place + 1 for place in range(FOLDS) if learnt[2 * place] == learnt[2 * place + 1]}
        assert alike == ({fold} if fold else {1, 2, 3})


def test_what_is_fitted_is_fitted_on_the_training_part_of_the_fold_alone(tmp_path: Path) -> None:
    from services.training.folds import Folds

    arrays = mixed(40)
    met = check_data(
        parse(spec(data={"split": {"folds": 3}, "missing": "mean", "missing_mask": True, "scaling": "standard"})),
        npz.summarise(arrays),
    )
    folds = Folds(met, arrays, torch.device("cpu"))
    for number in range(1, 4):
        parts = folds.rows[number - 1]
        fitted = folds.run(loop.Fold(number, 3, results=())).data.preprocessing.document()
        alone = prepare(arrays.chosen(parts["train"]), met, drawn={**parts, "train": np.arange(len(parts["train"])),
                        "validation": np.array([0]), "test": np.array([], np.int64)})  # fmt: skip
        assert fitted == alone.preprocessing.document()


# ---- interrupted


@pytest.mark.parametrize("seed", range(6))
def test_a_job_that_is_interrupted_anywhere_ends_as_one_that_is_not(
    seed: int, order: Callable[..., Event], unbroken: Unbroken
) -> None:
    """It is stopped with a checkpoint, or it is killed and goes on from one of those before; at random places."""
    rng = random.Random(seed)
    changes = {"lr_schedule": rng.choice([{"name": "constant"}, {"name": "cosine", "warmup_steps": 5}])}
    whole, expected = unbroken(**changes)
    parts = order("parts", training=changes)
    told: list[Event] = []
    for _ in range(60):
        is_killed = rng.random() < 0.5
        stream = events(parts, after(10**9 if is_killed else rng.randrange(1, 20)))
        heard = list(itertools.islice(stream, rng.randrange(2, 40))) if is_killed else list(stream)
        stream.close()  # type: ignore[attr-defined]
        told = kept(told, heard)
        if heard[-1]["event"] == "finished":
            break
        newest = [event for event in told if event["event"] == "checkpoint"]
        named = Path(parts["directory"]) / newest[-1]["files"][0]["name"] if newest else None
        parts["resume"] = rng.choice([NEWEST, str(named)]) if named and named.exists() else NEWEST if newest else None
    assert told[-1]["event"] == "finished"
    assert steps_of(told) == steps_of(expected)
    assert records(told) == records(expected)
    assert told[-1]["result"] == expected[-1]["result"]
    assert same(weights(parts), weights(whole))
    names = [path.name for path in Path(parts["directory"]).iterdir() if path.name.startswith("checkpoint-")]
    assert sorted(names) == sorted(
        path.name for path in Path(whole["directory"]).iterdir() if path.name.startswith("checkpoint-")
    )


def test_all_folds_after_the_one_that_pytorch_began_are_trained_by_it(order: Callable[..., Event]) -> None:
    whole, parts = order("whole", training={"engine": "torch"}), order("parts", training={"engine": "torch"})
    unbroken = list(events(whole))
    told = list(events(parts, after(5)))
    assert told[-1]["event"] == "stopped"
    parts = parts | {"resume": NEWEST, "spec": order(training={"engine": "auto"})["spec"]}
    told += list(events(parts))
    assert steps_of(told) == steps_of(unbroken)
    assert same(weights(parts), weights(whole))


def test_folds_of_sequences_that_are_read_in_windows_go_on_exactly_too(order: Callable[..., Event]) -> None:
    changes: dict[str, Any] = {
        "arrays": tagged(36, full=False),
        "training": {"epochs": 2, "bptt_steps": 3, "early_stopping": None},
        "data": {"split": {"validation": None, "test": 0.2, "folds": FOLDS}},
    }
    whole, parts = order("whole", **changes), order("parts", **changes)
    unbroken = list(events(whole))
    told: list[Event] = []
    for updates in (17, 29, 10**9):
        told += list(events(parts, after(updates)))
        parts["resume"] = NEWEST
    assert steps_of(told) == steps_of(unbroken)
    assert records(told) == records(unbroken)
    assert told[-1]["result"] == unbroken[-1]["result"]
    assert same(weights(parts), weights(whole))
    total = of("started", unbroken)[0]["fold"]["total_steps"]
    assert abs(total - len(steps_of(unbroken))) <= 8  # sequences of other lengths have other windows


def kept(told: list[Event], heard: list[Event]) -> list[Event]:
    """What the keeper of the records has with what was heard anew: all that lies beyond the place is forgotten."""
    place = next((event.get("resumed_from") for event in of("started", heard)), None) or {"epoch": 0, "step": 0}
    before: list[Event] = []
    for event in told:
        if event["event"] == "steps":
            many = min(len(event["loss"]), place["step"] - event["first_step"] + 1)
            if many > 0:
                cut = {name: event[name][:many] for name in ("loss", "grad_norm")}
                before.append({**event, **cut})
        is_kept_epoch = event["event"] == "epoch" and event["record"]["epoch"] <= place["epoch"]
        if is_kept_epoch or (event["event"] == "checkpoint" and event["step"] <= place["step"]):
            before.append(event)
    return before + heard


def test_a_damaged_checkpoint_of_a_fold_is_passed_over_for_the_last_one_of_the_fold_before(
    order: Callable[..., Event],
) -> None:
    asked = order(checkpoints={"every_seconds": None, "keep_last": 3})
    whole = list(events(order("whole")))
    steps_of_first = sum(fold == 1 for fold, *_ in steps_of(whole))
    told = list(events(asked, after(steps_of_first + 3)))  # the end of a fold asks once more
    newest, before = checkpoint.newest_first(Path(asked["directory"]))[:2]
    assert checkpoint.read(newest)["fold"]["number"] == 2
    assert (checkpoint.step_of(before), checkpoint.read(before)["fold"]["number"]) == (steps_of_first, 1)
    newest.with_suffix(".safetensors").write_bytes(b"damaged")
    again = list(events(asked | {"resume": str(newest)}))
    assert "is damaged or missing; training goes on from" in of("log", again)[0]["message"]
    assert of("started", again)[0]["resumed_from"]["step"] == steps_of_first
    assert again[-1]["result"] == whole[-1]["result"]
    assert [event["event"] for event in told][-1] == "stopped"


def test_checkpoints_of_other_folds_are_refused_by_name(order: Callable[..., Event]) -> None:
    asked = order()
    list(events(asked, after(20)))
    more = order("more", data={"split": {"validation": None, "test": 0.25, "folds": 4}, "scaling": "standard"})
    with pytest.raises(Invalid, match=r"data.split.folds was 3 and is 4"):
        list(events(more | {"directory": asked["directory"], "data": asked["data"], "resume": NEWEST}))


def test_when_no_checkpoint_is_whole_the_job_begins_again_at_its_first_fold(order: Callable[..., Event]) -> None:
    asked = order()
    list(events(asked, after(20)))
    for path in Path(asked["directory"]).glob("checkpoint-*.json"):
        path.write_bytes(b"{}")
    told = list(events(asked | {"resume": NEWEST}))
    assert "training starts from the beginning" in of("log", told)[0]["message"]
    assert len(of("log", told)) == 1
    started = of("started", told)[0]
    assert (started["fold"]["number"], started["resumed_from"], started["checkpoints"]) == (1, None, [])
    assert told[-1]["event"] == "finished"


# ---- stopped


@pytest.mark.parametrize(("reason", "why"), [("cancel", "cancelled"), ("time_limit", "time_limit")])
def test_a_job_that_is_cut_short_offers_the_fold_it_was_in_and_the_results_before(
    reason: str, why: str, order: Callable[..., Event]
) -> None:
    asked = order()
    whole = list(events(order("whole")))
    first = sum(fold == 1 for fold, *_ in steps_of(whole))
    told = list(events(asked, after(first + 10, reason)))
    stopped = told[-1]
    assert (stopped["event"], stopped["reason"]) == ("stopped", reason)
    result = stopped["result"]
    assert (result["complete"], result["incomplete_because"], result["fold"]) == (False, why, 2)
    assert result["folds"] == whole[-1]["result"]["folds"][:1]
    assert result["mean"] == result["folds"][0]["metrics"]
    assert set(result["std"].values()) == {None}
    best = [record for record in records(told) if record["fold"] == 2][result["best_epoch"] - 1]
    assert result["metrics"] == {key: value for key, value in best.items() if key.startswith("validation_")}
    card = json.loads((Path(asked["directory"]) / "model.json").read_text())
    assert (card["fold"], card["folds"]) == (2, result["folds"])


def test_a_stop_at_the_end_of_a_fold_stops_there(order: Callable[..., Event]) -> None:
    whole = list(events(order("whole")))
    first = sum(fold == 1 for fold, *_ in steps_of(whole))
    for updates in (first, first + 1):  # at its last update, and after it was judged
        asked = order(f"job{updates}")
        told = list(events(asked, after(updates, "pause")))
        assert told[-1] == {"event": "stopped", "reason": "pause"}
        assert steps_of(told)[-1][:2] == (1, first)
        assert not of("fold", told)
        again = list(events(asked | {"resume": NEWEST}))
        assert steps_of(told) + steps_of(again) == steps_of(whole)
        assert again[-1]["result"] == whole[-1]["result"]


# ---- trouble


def test_a_divergence_names_its_fold_and_a_rollback_stays_within_it(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.autograd_step
    failing = {"left": 0}

    def bad(run: Run, batches: list[MiniBatch]) -> Update:
        if run.fold.number == 2 and run.state.epoch == 0 and failing["left"]:
            failing["left"] -= 1
            raise run.diverged(run.state.step + 1, float("nan"), 1.0)
        return step(run, batches)

    monkeypatch.setattr(loop, "autograd_step", bad)
    monkeypatch.setattr(loop, "compiled_step", bad)
    failing["left"] = 1
    with pytest.raises(Diverged, match=r"It was fold 2 of 3\."):
        list(events(order()))
    failing["left"] = 1
    asked = order("again", training={"on_divergence": {"lr_factor": 0.5, "at_most": 2}})
    told = list(events(asked))
    [back] = of("rolled_back", told)
    first = told[-1]["result"]["folds"][0]
    assert (back["epoch"], back["step"]) == (first["epochs"], sum(fold == 1 for fold, *_ in steps_of(told)))
    assert [fold["rollbacks"] for fold in told[-1]["result"]["folds"]] == [0, 1, 0]
    assert [record["epoch"] for record in records(told)] == list(range(1, len(records(told)) + 1))


def test_a_device_that_is_too_small_for_a_fold_takes_smaller_batches_from_there_on(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.autograd_step
    taken: dict[int, int] = {}

    def small(run: Run, batches: list[MiniBatch]) -> Update:
        most = max(len(batch.y) for batch in batches)
        if run.fold.number >= 2 and most > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        taken[run.fold.number] = max(most, taken.get(run.fold.number, 0))
        return step(run, batches)

    monkeypatch.setattr(loop, "autograd_step", small)
    monkeypatch.setattr(loop, "compiled_step", small)
    asked = order()
    told = list(events(asked))
    [note] = [each for each in of("note", told) if each["type"] == "micro_batch"]  # later folds begin with what fits
    assert taken == {1: 4, 2: 2, 3: 2, 4: 2}
    again = of("started", told)[1]
    assert (again["fold"]["number"], again["resumed_from"]["step"]) == (2, note["data"]["step"] - 1)
    assert [step for _, step, *_ in steps_of(told)] == list(range(1, len(steps_of(told)) + 1))


def test_steps_that_stay_in_their_file_give_the_same_folds(tmp_path: Path) -> None:
    path = tmp_path / "data"
    store.write(path, as_sequences(ARRAYS, times=None))
    asked = {"spec": parse(spec(checkpoints={"every_steps": None})).document(), "data": str(path)}
    told = [
        list(events({**asked, "directory": str(tmp_path / str(size)), "resume": None}, in_file_from=size))
        for size in (0, 1 << 30)
    ]
    assert steps_of(told[0]) == steps_of(told[1])
    assert told[0][-1]["result"] == told[1][-1]["result"]


def test_data_of_which_a_fold_could_not_be_trained_is_refused_before_anything_is(order: Callable[..., Event]) -> None:
    """Without stratification nobody knows before the rows are drawn."""
    rare = replace(ARRAYS, y=np.where(np.arange(48) == 7, 3, ARRAYS.y))
    data = {"split": {"validation": None, "folds": FOLDS, "stratify": False}, "scaling": "standard"}
    kinds: list[str] = []
    told = (kinds.append(event["event"]) for event in events(order(arrays=rare, data=data)))
    with pytest.raises(DatasetInvalid, match="labels 3 of rows 7 are in no training row"):
        list(told)
    assert set(kinds) <= {"log"}


def test_without_a_test_part_the_result_has_the_numbers_of_training_and_the_mean(order: Callable[..., Event]) -> None:
    told = list(events(order(data={"split": {"validation": None, "folds": 2}})))
    result = told[-1]["result"]
    assert result["metrics"].keys() == {"train_loss", "train_accuracy", "train_macro_f1"}
    assert result["mean"]["validation_accuracy"] is not None
    last = records(told)[-1]
    assert result["metrics"]["train_loss"] == last["train_loss"]
