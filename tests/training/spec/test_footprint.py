"""What a job needs of memory: never more than it takes, and told before it is tried."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from services.errors import TooLargeToTrain
from services.training import run
from services.training.files import npz
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, check_data, footprint, parse, room
from services.training.spec.footprint import of_synthetic, shown
from services.training.spec.room import check_fits
from tests.training.building import classes, document, events, make_run

GIB = 1 << 30


def large(**architecture: Any) -> tuple[Spec, DatasetSummary]:
    spec = parse(
        document(
            architecture={"cell": "lstm", "hidden_size": 8192, "num_layers": 16} | architecture,
            data={"dataset": None, "synthetic": {}},
        )
    )
    assert spec.data.synthetic is not None
    summary = of_synthetic(spec.data.synthetic)
    return check_data(spec, summary), summary


@pytest.mark.parametrize(
    ("cell", "layers", "both", "pooling", "norm"),
    [*itertools.product(["rnn", "gru", "lstm"], [1, 3], [False, True], ["last", "attention"], [False, True])],
)
def test_the_parameters_are_counted_as_torch_makes_them(
    cell: str, layers: int, both: bool, pooling: str, norm: bool
) -> None:
    arrays = classes()
    architecture = {
        "cell": cell,
        "num_layers": layers,
        "bidirectional": both,
        "pooling": pooling,
        "batch_norm": norm,
    }
    made = make_run(arrays, architecture=architecture)
    counted = footprint.footprint(made.spec, npz.summarise(arrays)).parameters
    assert counted == sum(parameter.numel() for parameter in made.parameters)


def test_an_lstm_that_no_machine_holds_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "host_bytes", lambda: 64 * GIB)
    told = (
        r"needs 156 GiB of memory or more \(155 GiB for the network of 8,322,891,778 par.*, and this machine has 64 GiB"
    )
    with pytest.raises(TooLargeToTrain, match=told) as caught:
        check_fits(*large())
    assert caught.value.code == "too_large"
    with pytest.raises(TooLargeToTrain, match=r"155 GiB for the network.* and GPU 7 has 80 GiB: lower arch"):
        check_fits(*large(), device=("GPU 7", 80 * GIB))
    check_fits(*large(), device=("GPU 7", 180 * GIB))
    check_fits(*large(num_layers=2))


def test_a_gpu_is_asked_for_the_activations_of_a_sample_and_a_processor_for_those_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "host_bytes", lambda: 8 * GIB)
    spec = parse(document(architecture={"cell": "lstm", "hidden_size": 1024}, training={"batch_size": 1000}))
    summary = of_synthetic(parse_synthetic(samples=1000, length=1000, features=4))
    with pytest.raises(TooLargeToTrain, match=r"14\.3 GiB for the activations of a batch of 750"):
        check_fits(spec, summary)
    check_fits(spec, summary, device=("GPU", 8 * GIB))


def parse_synthetic(**drawn: int) -> Any:
    return parse(document(data={"dataset": None, "synthetic": drawn})).data.synthetic


def test_where_the_memory_is_not_known_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "host_bytes", lambda: None)
    check_fits(*large())


def test_a_cgroup_that_allows_less_than_the_machine_has_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = footprint.host_bytes()
    assert whole is not None
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(footprint, "_limits", lambda: iter([tmp_path / "memory.max", tmp_path / "none"]))
    assert footprint.host_bytes() is not None
    (tmp_path / "memory.max").write_text("123456\n")
    assert footprint.host_bytes() == 123456


def test_each_of_several_workers_has_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two jobs of 60 % of the memory would end each other again and again."""
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    monkeypatch.setattr(footprint, "_limits", lambda: iter([tmp_path / "memory.max"]))
    monkeypatch.setattr(footprint, "_workers", 1)
    monkeypatch.setattr(os, "sysconf", lambda _: 1 << 20)
    spec = parse(document(architecture={"cell": "lstm", "hidden_size": 8192}))
    summary = of_synthetic(parse_synthetic(samples=100, length=5, features=4))
    assert 0.5 < room.need(spec, summary, "cpu").bytes / (8 * GIB) < 0.7
    check_fits(spec, summary)
    footprint.share_host(2)
    assert footprint.host_bytes() == 4 * GIB
    told = (
        r"and each of the 2 workers that share this machine has 4 GiB: lower .* have more memory, or set "
        r"LOOPLINE_CPU_WORKERS=1: then one job has all memory of this machine\.$"
    )
    with pytest.raises(TooLargeToTrain, match=told):
        check_fits(spec, summary)


def test_a_job_that_does_not_fit_begins_neither_its_data_nor_its_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "host_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(npz, "synthetic", pytest.fail)
    spec, _ = large()
    order = {"spec": spec.document(), "data": None, "directory": str(tmp_path / "out"), "device": "cpu"}
    with pytest.raises(TooLargeToTrain):
        list(events(order))
    assert not (tmp_path / "out").exists()


def test_a_data_set_is_read_as_far_as_the_machine_has_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = classes()
    npz.write(tmp_path / "d.npz", arrays)
    spec = parse(document())
    monkeypatch.setattr(run, "host_bytes", lambda: 2 * GIB)
    given: list[npz.Limits] = []
    monkeypatch.setattr(npz, "read", lambda path, limits, **_: given.append(limits) or arrays)
    run.read_arrays(spec, tmp_path / "d.npz")
    assert given[0].max_bytes == 2 * GIB


def test_sizes_are_told_with_the_unit_that_fits() -> None:
    assert [shown(size) for size in (12, 2048, 3 << 20, 5 << 30)] == ["12 bytes", "2 KiB", "3 MiB", "5 GiB"]
    assert shown(4 * 10**15) == "3.55 PiB"
