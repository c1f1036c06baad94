"""The curves of a job, in a notebook, a file and at a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from loopline import BadRequest, Client, Epoch
from loopline.plot import of_epochs, ticks

SVG = "{http://www.w3.org/2000/svg}"


def epochs(count: int) -> list[Epoch]:
    numbers = ({"epoch": each, "train_loss": 1 / each, "validation_loss": 2 / each} for each in range(1, count + 1))
    return [Epoch.of(each) for each in numbers]


def test_a_job_is_plotted_for_a_notebook_a_prompt_and_a_file(
    service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path
) -> None:
    job = client.submit(tiny)
    assert repr(job.plot()) == "tiny\nno epochs yet"
    service.complete(job.id)
    shown = job.refresh().plot("loss", "accuracy", "lr")
    assert repr(shown).splitlines() == [
        "tiny",
        "train_loss           █▃▁  1 to 0.3333",
        "validation_loss      █▃▁  1.1 to 0.4333",
        "train_accuracy       ▁▁▁  0.9 to 0.9",
        "validation_accuracy  ▁▄█  0.6 to 0.8",
        "lr                   ▁▁▁  0.001 to 0.001",
    ]
    picture = ElementTree.fromstring(shown._repr_svg_())  # noqa: S314
    assert len(picture.findall(f"{SVG}polyline")) == 5
    assert len([path for path in picture.findall(f"{SVG}path") if path.get("stroke-dasharray")]) == 3
    assert shown.save(tmp_path / "curve.svg").read_text() == shown.svg
    with pytest.raises(BadRequest, match=r"curve\.png is no SVG"):
        shown.save(tmp_path / "curve.png")


def test_an_unknown_number_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadRequest, match=r"no number 'f1'\. They have: train_loss, validation_loss\."):
        of_epochs("job", epochs(2), ["f1"])


def test_many_epochs_are_thinned_out_and_what_is_not_finite_is_left_out() -> None:
    assert len(of_epochs("job", epochs(10_000), ["loss"]).panels[0].curves["train_loss"][0]) <= 300
    odd = [Epoch.of({"epoch": 1, "train_loss": None}), Epoch.of({"epoch": 2, "train_loss": 0.5})]
    assert [panel.points for panel in of_epochs("job", odd, ["loss"]).panels] == [[(2, 0.5)]]
    assert "circle" in of_epochs("job", odd, ["loss"]).svg
    assert of_epochs("job", [Epoch.of({"epoch": 1, "train_loss": None})], ["loss"]).panels == ()


def test_each_fold_has_a_curve_of_its_own() -> None:
    found = [Epoch.of({"epoch": each, "fold": 1 + (each > 2), "train_loss": 1.0 / each}) for each in range(1, 5)]
    assert of_epochs("job", found, ["train_loss"]).svg.count("<polyline") == 2


@pytest.mark.parametrize("odd", [10**400, 1e308, -1e308, float("nan"), float("inf")], ids=lambda odd: str(odd)[:6])
def test_numbers_that_are_no_measurements_are_left_out(odd: float) -> None:
    values = enumerate((0.5, odd, -odd), 1)
    found = [Epoch.of({"epoch": each, "train_f1": value, "train_mae": odd}) for each, value in values]
    shown = of_epochs("job", found, ["f1", "mae"])
    assert [panel.points for panel in shown.panels] == [[(1, 0.5)]]
    assert "0.5" in repr(shown)
    assert "circle" in shown.svg


def test_numbers_that_are_very_small_are_drawn() -> None:
    found = [Epoch.of({"epoch": each, "train_loss": value}) for each, value in ((1, 0.0), (2, 5e-324))]
    assert "polyline" in of_epochs("job", found, ["loss"]).svg
    assert "circle" in of_epochs("job", found[1:], ["loss"]).svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.03, 1.9, [0, 0.5, 1, 1.5, 2]),
        (1, 20, [0, 5, 10, 15, 20]),
        (5, 5, [4, 6]),
        (0, 0, [0]),
        (-1e-5, 2e-5, [-1e-5, 0, 1e-5, 2e-5]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
