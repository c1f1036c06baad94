"""Which of the warnings about a data set apply to a job with this spec."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from services.training.files.summary import DatasetSummary
from services.training.files.suspicion import Suspicion
from services.training.spec import shares
from services.training.spec.automatic import Choice
from services.training.spec.fields import Forecast, NextStep, Spec, Split


def for_job(
    found: Sequence[Mapping[str, str] | Suspicion],
    spec: Spec | None,
    summary: DatasetSummary,
    chosen: Collection[Choice] = (),
) -> list[str]:
    """The messages that apply to a job with this spec; without a spec, to a job that leaves everything at its default.

    The spec is the one that was submitted: after `check_data` has filled in the loss, nobody can tell who chose it.
    `chosen` is what was chosen for its data before.
    """
    documents = [each.document() if isinstance(each, Suspicion) else each for each in found]
    holds = {"always", "loss_unsaid", "unscaled", "drawn_split", "unfilled", "no_task", "rows"}
    if spec is not None:
        holds = {"always", "drawn_split"}
        said = spec.training.loss is not None and all(each.field != "training.loss" for each in chosen)
        holds |= {"loss_unsaid"} if not said and spec.task is None else set()
        is_forecast, fills = isinstance(spec.task, Forecast), spec.data.missing != "refuse"
        holds |= {"unscaled"} if spec.data.scaling == "none" and not is_forecast else set()  # it has its own default
        holds |= set() if fills else {"unfilled"}
        holds |= set() if is_forecast and fills else {"rows"}
        holds |= set() if isinstance(spec.task, Forecast | NextStep) else {"no_task"}
        holds |= {"targets_unscaled"} if spec.data.target_scaling == "none" else set()
    if not _is_drawn(spec, summary):
        holds -= {"drawn_split"}
    return [document["message"] for document in documents if document["when"] in holds]


def _is_drawn(spec: Spec | None, summary: DatasetSummary) -> bool:
    """Whether a part of the split is drawn at random, each sequence by itself."""
    marked, split = summary.given_split or {}, Split() if spec is None else spec.data.split
    parts = [shares.of_part(split, name, marked=bool(marked.get(name))) for name in shares.names(split)]
    drawn = split.folds is not None or any(share not in ("given", 0.0) for share in parts)
    return split.method in ("random", "content") and drawn
