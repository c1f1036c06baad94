"""The whole model in ONNX Runtime: model.onnx takes sequences as they are and gives answers (docs/onnx.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from loopline.prediction.document import Document
from loopline.prediction.errors import ModelUnusable
from loopline.prediction.given import Batch
from loopline.prediction.outcome import Floats, prepared

FORMATS = ("loopline-onnx/1", "loopline-onnx/2")
"""The second one has a state, and answers what comes after the last step alone."""
_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
_UNREADABLE = (
    *(errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile, errors.NotImplemented),
    *(errors.InvalidArgument, errors.RuntimeException),
)


class Graph:
    """A backend."""

    name = "onnxruntime"

    def __init__(self, document: Document, path: Path, threads: int | None) -> None:
        """Raises ModelUnusable."""
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _UNREADABLE as error:
            raise ModelUnusable(f"{path} cannot be read: {str(error)[:200]}") from error
        about = session.get_modelmeta().custom_metadata_map
        if about.get("format") not in FORMATS:
            raise ModelUnusable(
                f"{path} has the format {about.get('format')}, and this version of loopline reads up to {FORMATS[-1]}: "
                "install a newer one (pip install --upgrade loopline), or use torch."
            )
        if about.get("task") != document.task:
            raise ModelUnusable(f"{path} is of another model than model.json: download the model again.")
        self._document, self._session = document, session
        self._types = {each.name: _TYPES[each.type] for each in session.get_inputs()}
        self._shapes = {each.name: each.shape for each in session.get_inputs()}

    def outcome(self, batch: Batch) -> Floats:
        given = {name: self._inputs(name, batch) for name in self._types}
        if self._document.preprocessing.text is not None:
            inputs = prepared(self._document, batch)  # the numbers of tokens
            given |= {"x": inputs.x, "lengths": inputs.lengths}
        output = "values" if self._document.task in ("regression", "forecast") else "probabilities"
        feeds = {name: np.ascontiguousarray(each, self._types[name]) for name, each in given.items()}
        found = self._as_outcome(self._session.run([output], feeds)[0], feeds["lengths"])
        return np.asarray(found, np.float64)

    def _inputs(self, name: str, batch: Batch) -> NDArray[Any]:
        if name == "x":
            return batch.x_in_memory
        if name == "lengths":
            return batch.lengths
        if name == "state":
            states, _, size = self._shapes[name]
            return np.zeros((states, len(batch), size))  # that of the beginning
        forecast = self._document.forecast
        if name == "series" and forecast is not None:
            by_series = forecast.fit.inputs or forecast.fit.outputs
            ids = () if by_series is None else by_series.ids
            return np.array([ids.index(each) if each in ids else len(ids) for each in batch.ids], np.int64)
        found = batch.static if name == "static" else batch.future
        assert found is not None, "inputs.py asks for it"  # noqa: S101
        return found

    def _as_outcome(self, found: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
        task = self._document.task
        if task == "tagging":
            return found[np.arange(found.shape[1]) < lengths[:, None]]
        if task == "next_step" and found.ndim == 3:  # of the first format
            return found[np.arange(len(found)), lengths - 1]
        if self._document.forecast is not None and not self._document.forecast.quantiles:
            return found[..., np.newaxis]
        return found
