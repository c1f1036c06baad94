"""Which of the warnings about a data set apply to a job with this spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.training.files.summary import DatasetSummary
from services.training.files.suspicion import Suspicion
from services.training.spec import shares
from services.training.spec.fields import Forecast, Spec, Split


def for_job(found: Sequence[Mapping[str, str] | Suspicion], spec: Spec | None, summary: DatasetSummary) -> list[str]:
    """The messages that apply to a job with this spec; without a spec, to a job that leaves everything at its default.

    The spec is the one that was submitted: after `check_data` has filled in the loss, nobody can tell who chose it.
    """
    documents = [each.document() if isinstance(each, Suspicion) else each for each in found]
    holds = {"always", "loss_unsaid", "unscaled", "drawn_split", "unfilled"}
    if spec is not None:
        holds = {"always", "drawn_split"}
        holds |= {"loss_unsaid"} if spec.training.loss is None and spec.task is None else set()
        scales = isinstance(spec.task, Forecast)  # it has a default of its own
        holds |= {"unscaled"} if spec.data.scaling == "none" and not scales else set()
        holds |= {"unfilled"} if spec.data.missing == "refuse" else set()
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
