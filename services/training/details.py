"""What lies behind the metrics of a result: the scores of each class, label or target, and what is confused.

It is computed once, from the best weights, when a run has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from services.training import metrics

MATRIX = 50
"""The most classes of which a whole confusion matrix is kept."""
LARGEST = 20
"""The most confusions that are kept as a list."""
MOST_NAMED = 1000
"""The most classes, labels or targets that are kept one by one; of more, those with the largest support."""
MOST_RANKED = 20_000_000
"""The most numbers that are sorted for AUROC: samples times classes. Beyond it there is none."""
BINS = 10
"""Of equal width, into which probabilities are sorted to see whether they are right."""

Details = dict[str, Any]
Name = int | str


def of_classes(
    predicted: Tensor, targets: Tensor, names: Sequence[Name], scores: Callable[[int], Tensor], confidence: Tensor
) -> Details:
    """Class indices (samples,) against the true ones. `scores` gives what a class is ranked by: (samples,).
    `confidence` (samples,) are the probabilities of the predicted classes."""
    count = len(names)
    hits = targets[predicted == targets].bincount(minlength=count)
    per = _scored(hits, predicted.bincount(minlength=count), targets.bincount(minlength=count))
    ranked = len(targets) * count <= MOST_RANKED
    areas = [auroc(scores(number), targets == number) if ranked else None for number in range(count)]
    return {
        "classes": _named(names, per, areas),
        **_averages(per, areas),
        "confusion": _confusion(predicted, targets, names),
        "calibration": calibration(confidence, predicted == targets),
    }


def of_labels(outputs: Tensor, targets: Tensor, names: Sequence[Name]) -> Details:
    """Logits of yes (samples, labels) against 0 and 1. A confusion matrix is [[true no, false yes], [false no, true
    yes]] of each label."""
    predicted, actual = outputs > 0, targets > 0.5
    hits, yes, true = (each.sum(dim=0) for each in (predicted & actual, predicted, actual))
    per = _scored(hits, yes, true)
    ranked = outputs.numel() <= MOST_RANKED
    areas = [auroc(outputs[:, label], actual[:, label]) if ranked else None for label in range(len(names))]
    rows = torch.stack((len(outputs) - yes - true + hits, yes - hits, true - hits, hits), dim=1)
    kept = _kept(per["support"])
    matrices = rows.view(-1, 2, 2)[torch.tensor(kept, device=rows.device)].tolist()
    return {
        "labels": _named(names, per, areas),
        **_averages(per, areas),
        "confusion": {"of_labels": matrices},
        "calibration": calibration(outputs.sigmoid().flatten(), actual.flatten()),
    }


def of_values(outputs: Tensor, targets: Tensor, names: Sequence[Name]) -> Details:
    """Several numbers a sample (samples, targets), in the unit of the data."""
    each = [metrics.of_values(outputs[:, [n]], targets[:, [n]]) for n in range(min(len(names), MOST_NAMED))]
    return {"targets": {"name": list(names[:MOST_NAMED])} | {key: [one[key] for one in each] for key in each[0]}}


def auroc(scores: Tensor, positive: Tensor) -> float | None:
    """How probable it is that a positive sample has a higher score than a negative one, equal scores counting half;
    None where there are no samples of a kind (Mann and Whitney 1947)."""
    own, others = scores[positive].contiguous(), scores[~positive].sort().values
    if not len(own) or not len(others):
        return None
    below = torch.searchsorted(others, own).sum() + torch.searchsorted(others, own, right=True).sum()  # twice each
    return float(below.double() / 2.0 / (len(own) * len(others)))


def calibration(probabilities: Tensor, came_true: Tensor) -> Details:
    """Whether what is said with probability p comes true in a share p of the cases: (cases,) both.

    Of BINS bins of equal width from 0 to 1, the number of cases, their mean probability and the share that came true;
    None where a bin is empty. `error` is the mean distance of the two, weighted by the cases: the expected calibration
    error (Naeini et al. 2015, Guo et al. 2017).
    """
    said, true = probabilities.double().cpu(), came_true.cpu()  # on the CPU, where the order of a sum is fixed
    bins = (said * BINS).long().clamp(0, BINS - 1)
    count = bins.bincount(minlength=BINS)
    sums = (bins.bincount(weights=each, minlength=BINS) for each in (said, true.double()))
    mean, share = ((each / count).tolist() for each in sums)
    cases = count.tolist()
    distances = [abs(a - b) for a, b in zip(mean, share, strict=True)]
    return {
        "error": _mean([0.0 if not n else d for n, d in zip(cases, distances, strict=True)], cases),
        "count": cases,
        "probability": [each if n else None for n, each in zip(cases, mean, strict=True)],
        "share": [each if n else None for n, each in zip(cases, share, strict=True)],
    }


def _scored(hits: Tensor, predicted: Tensor, actual: Tensor) -> dict[str, list[Any]]:
    """Precision, recall and F1 of each class from counts (classes,); None where they are not defined."""
    counts = list(zip(hits.tolist(), predicted.tolist(), actual.tolist(), strict=True))
    return {
        "precision": [hit / answered if answered else None for hit, answered, _ in counts],
        "recall": [hit / true if true else None for hit, _, true in counts],
        "f1": [2.0 * hit / (answered + true) if answered + true else None for hit, answered, true in counts],
        "support": [true for _, _, true in counts],
    }


def _averages(per: dict[str, list[Any]], areas: list[float | None]) -> Details:
    """Over the classes that occur among answers or targets: `macro` counts each once, `weighted` by its support. A
    precision or recall that is not defined counts as 0 here, as in scikit-learn. That of AUROC is over the classes that
    have one."""
    support = per["support"]
    occurring = [number for number, f1 in enumerate(per["f1"]) if f1 is not None]
    ranked = [number for number, area in enumerate(areas) if area is not None]
    found: Details = {"macro": {}, "weighted": {}}
    for name, values, chosen in (
        *((name, per[name], occurring) for name in ("precision", "recall", "f1")),
        ("auroc", areas, ranked),
    ):
        found["macro"][name] = _mean([values[n] or 0.0 for n in chosen], [1] * len(chosen))
        found["weighted"][name] = _mean([values[n] or 0.0 for n in chosen], [support[n] for n in chosen])
    return found


def _mean(values: list[float], weights: list[int]) -> float | None:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else None


def _kept(support: list[int]) -> list[int]:
    """The places of at most MOST_NAMED classes, in their order."""
    if len(support) <= MOST_NAMED:
        return list(range(len(support)))
    return sorted(sorted(range(len(support)), key=lambda number: -support[number])[:MOST_NAMED])


def _named(names: Sequence[Name], per: dict[str, list[Any]], areas: list[float | None]) -> Details:
    kept = _kept(per["support"])
    columns = {"name": names, **per, "auroc": areas}
    return {column: [values[number] for number in kept] for column, values in columns.items()}


def _confusion(predicted: Tensor, targets: Tensor, names: Sequence[Name]) -> Details:
    """How often each class (row) was taken for each (column), of at most MATRIX classes; and the largest confusions."""
    count = len(names)
    pairs, counts = (targets * count + predicted).unique(return_counts=True)  # type: ignore[no-untyped-call]
    matrix = None
    if count <= MATRIX:
        all_pairs = torch.zeros(count * count, dtype=torch.long, device=pairs.device).index_add(0, pairs, counts)
        matrix = all_pairs.view(count, count).tolist()
    wrong = pairs // count != pairs % count
    pairs, counts = pairs[wrong], counts[wrong]
    largest = counts.argsort(descending=True, stable=True)[:LARGEST]
    return {
        "matrix": matrix,
        "largest": [
            {"actual": names[pair // count], "predicted": names[pair % count], "count": times}
            for pair, times in zip(pairs[largest].tolist(), counts[largest].tolist(), strict=True)
        ],
    }
