"""How low a loss with label smoothing can get."""

from __future__ import annotations

import pytest
import torch
from loopline.prediction import smoothing


@pytest.mark.parametrize(("share", "classes"), [(0.1, 2), (0.1, 9), (0.3, 100)])
def test_the_least_loss_is_that_of_torch_for_the_smoothed_targets(share: float, classes: int) -> None:
    best = torch.full((classes,), share / classes)
    best[0] += 1 - share
    found = torch.nn.functional.cross_entropy(best.log()[None], torch.tensor([0]), label_smoothing=share)
    assert smoothing.least_loss(share, classes) == pytest.approx(float(found), rel=1e-5)


def test_the_sentence_about_smoothing_says_what_is_known() -> None:
    plain = "Label smoothing (0.1) keeps the loss from reaching 0, even if every answer is right."
    assert smoothing.sentence({"label_smoothing": 0.1}, 9) == f"{plain} With 9 classes it is at least 0.485."
    assert smoothing.sentence({"label_smoothing": 0.1}, None) == plain
    assert smoothing.sentence({"label_smoothing": 0.1, "class_weights": "balanced"}, 9) == plain
    assert smoothing.sentence({"label_smoothing": 0.0}, 9) is None
    assert smoothing.sentence({"name": "mse"}, None) is None
