"""Loads the folder of a finished job as a model that answers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from loopline.files.named import named_file
from loopline.files.problems import FileInvalid
from loopline.files.sequences import Column
from loopline.prediction import document as documents
from loopline.prediction import inputs, naming, network, streaming, weights
from loopline.prediction.answers import Answer
from loopline.prediction.document import Document
from loopline.prediction.errors import InputInvalid, ModelUnusable, refused
from loopline.prediction.given import Given
from loopline.prediction.outcome import Backend, Computed
from loopline.prediction.streaming import Session

BackendName = Literal["onnxruntime", "torch", "numpy"]
BACKENDS = ("onnxruntime", "torch", "numpy")


def load(
    path: str | os.PathLike[str],
    backend: BackendName | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> TrainedModel:
    """The model in a folder that `loopline download` has made.

    `backend` says what computes: `onnxruntime` (which needs model.onnx), `torch`, or `numpy`. By default it is the
    first one that is there. `device` is where torch computes, such as `cuda`. `threads` is how many threads ONNX
    Runtime uses for one prediction; by default as many as there are cores.

    Raises ModelUnusable if the folder is not that of a model, if its format is newer than this version of loopline, or
    if the backend is not installed.
    """
    folder = Path(path)
    document = documents.read(folder)
    chosen = backend or _first(folder, device)
    if chosen not in BACKENDS:
        raise ModelUnusable(f"there is no backend {chosen!r}: give one of {', '.join(BACKENDS)}")
    return TrainedModel(document, _backend(chosen, folder, document, device, threads), folder)


class TrainedModel:
    """A trained model: its network, and what is done to its input and to its output."""

    def __init__(self, document: Document, backend: Backend, folder: Path) -> None:
        """Use `load`."""
        self._document, self._backend, self._folder = document, backend, folder

    def __repr__(self) -> str:
        a = self._document.architecture
        return f"<TrainedModel {self.task}, {a.cell} of {a.hidden_size}, with {self.backend}>"

    @property
    def task(self) -> str:
        """classification, multilabel, regression, tagging, forecast or next_step."""
        return self._document.task

    @property
    def backend(self) -> str:
        """What computes."""
        return self._backend.name

    @property
    def card(self) -> Mapping[str, Any]:
        """model.json: the spec, the metrics, what the model was trained on and with."""
        return self._document.plain

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Those that training recorded for this model."""
        return cast("Mapping[str, float | None]", self._document.plain["metrics"])

    @property
    def classes(self) -> tuple[int | str, ...] | None:
        """The classes or tags, in the order of probabilities."""
        return self._document.classes

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the values or labels that it predicts."""
        if self._document.forecast is not None:
            return self._document.forecast.targets
        return () if self._document.classes is not None else self._document.target_names

    @property
    def width(self) -> int:
        """The most numbers that it computes for each step of a sequence: what an answer takes of memory."""
        return self._document.width

    @property
    def features(self) -> tuple[Column, ...]:
        """What x has at each step, in this order. The words of a category have the numbers from 1 on; 0 is another
        word."""
        return documents.columns_of(self._document.given)

    @property
    def static(self) -> tuple[Column, ...]:
        """What it reads of each sequence besides."""
        return documents.columns_of(self._document.static)

    @property
    def reads_texts(self) -> bool:
        """Whether x are texts."""
        return self._document.preprocessing.text is not None

    def predict(
        self, x: Any, *, lengths: Any = None, static: Any = None, future: Any = None, ids: Any = None, end: Any = None
    ) -> Answer:
        """Answers about sequences.

        `x` is one of these:

        - an array (steps, features) or (sequences, steps, features) with `lengths`, or a list of arrays (steps,
          features) of different lengths. Numbers are as in the data that the model was trained on, and NaN is a missing
          value. `static` (sequences, values) are the values of whole sequences, if the model reads some; `future`
          (sequences, horizon, columns) is what is known ahead of time. `ids` name the sequences. `end` is the time of
          the last step, or that of each sequence: a str such as "2024-03-31 23:00", a date, a datetime or a
          numpy.datetime64. A forecast that reads the calendar needs it.
        - texts: a str or a list of str. A str alone that is the name of a file is refused: give a Path for the file, or
          a list for the text.
        - a table with the columns of the data set: of pandas, polars or pyarrow, or a mapping. What there is to predict
          need not be there. Of a forecast with columns that are known ahead, the last rows have them alone.
        - the path of a file or folder of any format that can be uploaded, with such columns.

        Raises InputInvalid, which names everything that the model cannot take.
        """
        return self.answer(self.read(x, lengths=lengths, static=static, future=future, ids=ids, end=end))

    def read(
        self, x: Any, *, lengths: Any = None, static: Any = None, future: Any = None, ids: Any = None, end: Any = None
    ) -> Given:
        """The sequences of the arguments of `predict`, before anything is computed. Raises InputInvalid."""
        try:
            return inputs.check(self._document, self._given(x, lengths, static, future, ids, end))
        except FileInvalid as error:
            raise InputInvalid(error.problems) from error

    def stream(self, *, static: Any = None) -> Session:
        """A session that takes one sequence step by step, and answers after each. `static` (values,) are the values of
        the whole sequence, if the model reads some.

        Raises InputInvalid if the model cannot answer before a sequence ends, and says why.
        """
        document = self._document
        if (why := streaming.refusal(document)) is not None:
            raise refused(why)
        made = network.Network(document.architecture, weights.read(self._folder, document.architecture))
        return Session(document, made, inputs.of_static(document, static))

    def _given(self, x: Any, lengths: Any, static: Any, future: Any, ids: Any, end: Any) -> Given:
        document = self._document
        reads_texts = document.preprocessing.text is not None
        if reads_texts and isinstance(x, str):
            if (way_out := named_file(x)) is not None:
                raise refused(way_out)
            x = [x]
        elif reads_texts and isinstance(x, np.ndarray) and x.dtype.kind in "OU":
            x = x.tolist()
        if _is_table(x) or isinstance(x, str | os.PathLike):
            if not all(each is None for each in (lengths, static, future, ids, end)):
                raise refused(
                    "lengths, static, future, ids and end are for arrays and texts: a table has columns for them"
                )
            return _of_table_or_file(document, x)
        if reads_texts and isinstance(x, list | tuple):
            return inputs.of_texts(document, x, static, ids)
        return inputs.of_arrays(document, x, lengths, static, future, ids, end)

    def answer(self, given: Given) -> Answer:
        """What `predict` answers about sequences that were read. Raises InputInvalid where that is no finite number."""
        return self.named(given, list(self.outcomes(given)))

    def outcomes(self, given: Given) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Which sequences are computed together, and what the network says of them, one batch after the other."""
        for rows in given.batches(self._document.width):
            with np.errstate(all="ignore"):  # `named` looks at every number
                found = self._backend.outcome(given.batch(rows))
            yield rows, found

    def named(self, given: Given, found: naming.Outcomes) -> Answer:
        """The answer about all sequences, of what `outcomes` gave. Raises InputInvalid where that is no finite
        number."""
        return naming.answer(self._document, given, found)


def _is_table(x: Any) -> bool:
    return isinstance(x, Mapping) or hasattr(x, "__arrow_c_stream__")


def _of_table_or_file(document: Document, x: Any) -> Given:
    try:
        from loopline.prediction import tables
    except ModuleNotFoundError as error:
        raise ModelUnusable(f'Tables and files need {error.name}: pip install "loopline[predict]".') from None
    return tables.of_table(document, x) if _is_table(x) else tables.of_file(document, Path(x))


def _first(folder: Path, device: str) -> BackendName:
    if device == "cpu" and (folder / "model.onnx").exists() and _is_installed("onnxruntime"):
        return "onnxruntime"
    return "torch" if device != "cpu" or _is_installed("torch") else "numpy"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # somebody has put None into sys.modules
        return False


def _backend(name: BackendName, folder: Path, document: Document, device: str, threads: int | None) -> Backend:
    if name == "onnxruntime":
        return _onnx_graph(folder / "model.onnx", document, device, threads)
    if name == "numpy" and device != "cpu":
        raise ModelUnusable(f"numpy cannot compute on {device!r}: use torch.")
    shape = document.architecture
    read = weights.read(folder, shape)
    if name == "numpy":
        return Computed("numpy", document, network.Network(shape, read))
    try:
        from loopline.prediction import torch_network
    except ImportError:
        raise ModelUnusable("The backend torch needs PyTorch: pip install torch.") from None
    try:
        return Computed("torch", document, torch_network.Network(shape, read, device))
    except RuntimeError as error:
        raise ModelUnusable(f"torch cannot compute on {device!r}: {str(error).splitlines()[0]}") from error


def _onnx_graph(path: Path, document: Document, device: str, threads: int | None) -> Backend:
    if device != "cpu":
        raise ModelUnusable(f"onnxruntime computes on the CPU here, not on {device!r}: use torch.")
    if not path.exists():
        raise ModelUnusable(f"There is no {path}: use torch or numpy. The event `export` of the job says why.")
    try:
        from loopline.prediction import onnx_graph
    except ImportError:
        raise ModelUnusable('The backend onnxruntime is not installed: pip install "loopline[predict]".') from None
    return onnx_graph.Graph(document, path, threads)
