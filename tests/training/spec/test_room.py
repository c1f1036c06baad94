"""Whether a device has room for a job: nothing is counted that the job may not need."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, check_data, parse, room
from services.training.spec.footprint import Footprint, footprint, of_synthetic
from services.training.spec.room import Device, is_near, lacks, need
from tests.training.building import classes, document, make_run
from tests.training.preprocessing.test_models import EVERYTHING, mixed
from tests.training.preprocessing.test_texts import texts

GIB = 1 << 30
SMALL, LARGE = Device("cpu", 8 * GIB), Device("cpu", 64 * GIB)
GPU = Device("NVIDIA H200", 140 * GIB)


def synthetic(drawn: dict[str, int], **changes: Any) -> tuple[Spec, DatasetSummary]:
    spec = parse(document(data={"dataset": None, "synthetic": drawn}, **changes))
    assert spec.data.synthetic is not None
    summary = of_synthetic(spec.data.synthetic)
    return check_data(spec, summary), summary


def sure(spec: Spec, summary: DatasetSummary) -> Footprint:
    return footprint(spec, summary, surely=True)


WIDE = {"cell": "lstm", "hidden_size": 1024}
LONG = {"samples": 1000, "length": 1000, "features": 4}


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_batch_keeps_no_less_than_is_counted(cell: str, more: dict[str, Any], precision: str) -> None:
    arrays = classes(samples=24, length=40)
    run = make_run(
        arrays,
        architecture={"cell": cell, "hidden_size": 24, **more},
        training={"batch_size": 16, "precision": precision},
    )
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answers = run.model(torch.zeros(16, 40, 3))
    weights = {parameter.untyped_storage().data_ptr() for parameter in run.parameters}
    found = sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
    assert answers.requires_grad
    assert sure(run.spec, npz.summarise(arrays)).batch <= found


@pytest.mark.parametrize(
    ("arrays", "data"),
    [
        (texts(), {"text": {"max_vocabulary": 8, "embedding_size": 3}}),
        (texts(), {"text": {"min_count": 2}}),
        (mixed(40), {**EVERYTHING, "categories": "one_hot", "embedding_size": None, "missing_mask": True}),
        (mixed(40), {**EVERYTHING, "categories": "embedding", "missing_mask": False}),
    ],
)
def test_words_and_categories_that_training_may_not_see_are_not_counted(arrays: Arrays, data: dict[str, Any]) -> None:
    run, summary = make_run(arrays, data=data), npz.summarise(arrays)
    there = sum(parameter.numel() for parameter in run.parameters)
    assert 0 < sure(run.spec, summary).parameters < there <= footprint(run.spec, summary).parameters


def test_a_batch_has_no_more_samples_than_are_trained_on() -> None:
    spec, summary = synthetic(LONG, training={"batch_size": 1000})
    assert sure(spec, summary).samples == 750 < footprint(spec, summary).samples
    by_content = spec.data.split.model_copy(update={"method": "content"})
    about = spec.model_copy(update={"data": spec.data.model_copy(update={"split": by_content})})
    assert sure(about, summary).samples == 375
    dropping = spec.model_copy(update={"data": spec.data.model_copy(update={"missing": "drop"})})
    assert sure(dropping, summary).samples == 1


def test_a_long_sequence_counts_only_if_it_is_surely_trained_on() -> None:
    summary = npz.summarise(classes()).model_copy(update={"samples": 1000, "max_length": 400_000, "min_length": 100})
    everything = {"split": {"validation": 0.0, "test": 0.0}}

    def of_sample(data: dict[str, Any], summary: DatasetSummary = summary) -> int:
        return sure(parse(document(data=data, training={"epochs": 2})), summary).sample

    short = of_sample({}, summary.model_copy(update={"max_length": 100}))
    for data in ({}, {"split": {"validation": 0.0, "test": 0.1}}, {**everything, "missing": "drop"}):
        assert of_sample(data) == short
    assert of_sample({"split": {"test": 0.0}}, summary.model_copy(update={"given_split": {"validation": 9}})) == short
    assert of_sample(everything) == of_sample({"split": {"folds": 5, "validation": None}}) == 4000 * short
    assert footprint(parse(document()), summary).sample == 4000 * short  # what a dry run warns of


def test_a_single_epoch_keeps_no_weights_of_a_better_one() -> None:
    one, summary = synthetic(LONG, training={"epochs": 1})
    two, _ = synthetic(LONG, training={"epochs": 2})
    assert 5 * sure(one, summary).network == 4 * sure(two, summary).network


def test_data_that_is_read_and_prepared_is_gone_in_part_before_the_network_needs_its_memory() -> None:
    spec, summary = synthetic({"samples": 100_000, "length": 1000, "features": 10}, training={"batch_size": 10})
    wanted = need(spec, summary, room.CPU)
    assert wanted.bytes == 2 * summary.bytes
    assert (wanted.largest.pointer, wanted.largest.way_out) == ("/data/synthetic", "use less data")
    assert need(spec, summary, GPU.name).bytes < summary.bytes  # it is in the machine's memory


def test_steps_that_stay_in_their_file_are_not_counted_and_those_that_are_read_in_windows_are() -> None:
    summary = npz.summarise(classes()).model_copy(update={"samples": 100_000, "max_length": 2000, "bytes": 2 * GIB})
    assert need(parse(document()), summary, room.CPU).bytes < GIB // 4
    windows = document(architecture={"pooling": "none"}, training={"bptt_steps": 10})
    tagged = summary.model_copy(update={"target": "tags"})
    assert need(parse(windows), tagged, room.CPU).bytes > 4 * GIB


def test_the_device_that_comes_closest_is_named_if_none_has_room() -> None:
    spec, summary = synthetic(LONG, architecture=WIDE, training={"batch_size": 1000})
    lacking = lacks(spec, summary, [Device("cpu", GIB), SMALL])
    assert lacking is not None
    assert lacking[1] == SMALL
    assert lacking[0].largest.pointer == "/training/batch_size"
    assert lacks(spec, summary, [SMALL, LARGE]) is None
    assert lacks(spec, summary, []) is None
    assert lacks(spec, summary, [SMALL, Device("NVIDIA T4", 16 * GIB)]) is None  # in small parts of a batch


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({}, "/data/max_length", "data.max_length, data.stride or data.patch"),
        ({"training": {"bptt_steps": 50_000}, "architecture": {"pooling": "none"}}, "/training/bptt_steps", "lower"),
        ({"architecture": {"pooling": "none"}}, "/training/bptt_steps", "train in windows"),
    ],
)
def test_long_sequences_have_ways_to_be_shorter(changes: dict[str, Any], pointer: str, words: str) -> None:
    spec = parse(document(**{**changes, "architecture": {**WIDE, **changes.get("architecture", {})}}))
    summary = npz.summarise(classes()).model_copy(update={"max_length": 10**6, "min_length": 10**6})
    largest = need(spec, summary, GPU.name).largest
    assert (largest.pointer, words in largest.way_out) == (pointer, True)


def test_what_has_room_by_a_little_is_told_as_near() -> None:
    spec, summary = synthetic(LONG, architecture=WIDE, training={"batch_size": 1000})
    near = is_near(spec, summary, [SMALL, Device("cpu", 30 * GIB)])
    assert near is not None
    assert near[1].memory == 30 * GIB
    assert is_near(spec, summary, [SMALL, LARGE]) is None
    assert is_near(spec, summary, [GPU]) is None
    assert is_near(spec, summary, [Device("NVIDIA T4", 16 * GIB)]) is not None
    assert is_near(spec, summary, []) is None
