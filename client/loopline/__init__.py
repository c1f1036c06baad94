"""The Python client and the command of Loopline: submit training jobs over HTTP, and download their models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopline.aio import AsyncBatch, AsyncClient, AsyncJob, AsyncListing, AsyncSearch, AsyncSucceededJob
    from loopline.batch import Batch, BatchJob
    from loopline.client import Client
    from loopline.comparing import Comparison
    from loopline.errors import (
        BadRequest,
        Conflict,
        DownloadFailed,
        JobCancelled,
        JobFailed,
        LooplineError,
        NotAllowed,
        NotFound,
        Problem,
        ServiceError,
        ServiceUnreachable,
        WaitTimeout,
    )
    from loopline.job import Job, SucceededJob
    from loopline.listing import Listing
    from loopline.plot import Plot
    from loopline.prediction.errors import InputInvalid, ModelUnusable
    from loopline.prediction.loading import TrainedModel, load
    from loopline.schedules import Firing, Schedule
    from loopline.search import BestTrial, Importance, Search, Trial
    from loopline.types import (
        Answers,
        Best,
        Checkpoint,
        Dataset,
        Delivery,
        DryRun,
        Epoch,
        Event,
        Health,
        Identity,
        InboxFile,
        Key,
        LogLine,
        Model,
        ModelMove,
        ModelVersion,
        Prediction,
        Preset,
        Progress,
        Quota,
        Result,
        SearchDryRun,
        Steps,
        Webhook,
        Worker,
    )

__all__ = [
    "Answers",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "AsyncListing",
    "AsyncSearch",
    "AsyncSucceededJob",
    "BadRequest",
    "Batch",
    "BatchJob",
    "Best",
    "BestTrial",
    "Checkpoint",
    "Client",
    "Comparison",
    "Conflict",
    "Dataset",
    "Delivery",
    "DownloadFailed",
    "DryRun",
    "Epoch",
    "Event",
    "Firing",
    "Health",
    "Identity",
    "Importance",
    "InboxFile",
    "InputInvalid",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Key",
    "Listing",
    "LogLine",
    "LooplineError",
    "Model",
    "ModelMove",
    "ModelUnusable",
    "ModelVersion",
    "NotAllowed",
    "NotFound",
    "Plot",
    "Prediction",
    "Preset",
    "Problem",
    "Progress",
    "Quota",
    "Result",
    "Schedule",
    "Search",
    "SearchDryRun",
    "ServiceError",
    "ServiceUnreachable",
    "Steps",
    "SucceededJob",
    "TrainedModel",
    "Trial",
    "WaitTimeout",
    "Webhook",
    "Worker",
    "load",
]

_MODULES = ("errors", "types", "schedules", "batch", "search", "plot", "listing", "job", "comparing", "client", "aio")
"""The module of each public name. The first two import no large library."""
_PREDICTION = {
    "InputInvalid": "prediction.errors",
    "ModelUnusable": "prediction.errors",
    "TrainedModel": "prediction.loading",
    "load": "prediction.loading",
}
"""Those of models that predict here. They need numpy, which `pip install loopline` alone does not bring."""


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used. Importing httpx would triple the time of `loopline --help`."""
    if name in _PREDICTION:
        return _of_prediction(name)
    if name in __all__:
        for module in _MODULES:
            if (found := getattr(import_module(f"{__name__}.{module}"), name, None)) is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _of_prediction(name: str) -> object:
    try:
        return getattr(import_module(f"{__name__}.{_PREDICTION[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__):
            raise
        raise ImportError(f'loopline.{name} needs {error.name}: pip install "loopline[predict]"') from None


def __dir__() -> list[str]:
    return sorted(__all__)
