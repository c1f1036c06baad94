"""A sequence that comes step by step: the state of the network stays in memory, so each step costs the same.

It is computed in numpy, with any backend.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.prediction import inputs, naming, outcome, unseen
from loopline.prediction.answers import Answer
from loopline.prediction.document import Document, columns_of
from loopline.prediction.errors import InputInvalid, refused
from loopline.prediction.given import Given
from loopline.prediction.network import Floats, Network, Pooled
from loopline.preprocessing.texts import UNKNOWN
from loopline.preprocessing.tokens import tokens


def refusal(document: Document) -> str | None:
    """Why a model cannot answer step by step; None if it can."""
    choices, scaling = document.preprocessing.steps.choices, document.preprocessing.scaling.name
    whole = "use predict with the whole sequence"
    if document.architecture.bidirectional:
        return f"the model reads each sequence backwards too, from its last step on: {whole}"
    if document.forecast is not None:
        return f"a forecast reads the last {document.forecast.lookback:,} steps anew each time: use predict with them"
    if choices.missing == "linear":
        return f"missing values are filled with a line to the next value, which is not there yet: {whole}"
    if choices.scaling_over == "per_sequence" and scaling != "none":
        return f"the model scales each sequence by all of its steps: {whole}"
    if choices.max_length is not None and choices.cut == "start":
        return f"the model reads the last {choices.max_length:,} steps anew each time: {whole}"
    return None


class Session:
    """One sequence. `push` gives what `predict` answers about all steps so far."""

    def __init__(self, document: Document, network: Network, given: Given) -> None:
        """Use `TrainedModel.stream`. Of the sequence `given` has nothing yet but its static values."""
        self._document, self._network, self._given = document, network, given
        self._static = document.preprocessing.static_values(given.batch(np.zeros(1, np.int64)))
        self._read = (_Steps if document.preprocessing.text is None else _Texts)(document)
        self._states = tuple(network.zeros(1) for _ in range(document.architecture.num_layers))
        self._pooled = Pooled(network)
        self._patch: list[Floats] = []
        self.steps = 0
        """Steps that were pushed; of texts, characters or words."""

    def push(self, step: Any) -> Answer:
        """Takes the next step (features,), or the next piece of a text (a str), and answers about the sequence so far.
        For a model of tags the answer has one step: this one.

        Raises InputInvalid; the session then is as it was before.
        """
        before = {**vars(self), "_patch": [*self._patch], "_read": copy(self._read)}
        try:
            with np.errstate(all="ignore"):  # the answer is looked at
                return self._pushed(step)
        except InputInvalid:
            vars(self).update(before)
            raise

    def _pushed(self, step: Any) -> Answer:
        choices = self._document.preprocessing.steps.choices
        for take in self._read.pushed(step):
            place, self.steps = self.steps, self.steps + 1
            if place % choices.stride == 0 and (choices.max_length is None or place < choices.max_length):
                self._patch.append(take())
            if len(self._patch) == choices.patch:
                self._states, self._pooled = self._advanced()
                self._patch = []
        return self._answer()

    def _advanced(self) -> tuple[Any, Pooled]:
        """The states, and what is pooled, after the steps that wait for their patch to be complete; the rest of it is
        zero, as it is at the end of a sequence."""
        a = self._document.architecture
        channels = a.input_size // a.patch
        read = np.zeros((1, 1, a.patch * channels), np.float32)
        for place, each in enumerate(self._patch):
            read[0, 0, place * channels : (place + 1) * channels] = each
        output, states = self._network.stepped(self._network.looked_up(read)[:, 0], self._states)
        pooled = replace(self._pooled, kept=dict(self._pooled.kept))
        pooled.add(output)
        return states, pooled

    def _answer(self) -> Answer:
        pooled = self._pooled
        if self._patch:
            _, pooled = self._advanced()
        elif not pooled.count:  # a text without any character or word
            self._patch = [np.full(1, UNKNOWN, np.float32)]
            _, pooled = self._advanced()
            self._patch = []
        outputs = self._network.answered(pooled.value, self._static)
        found = outcome.meaning(self._document, outputs, self._given.ids)
        given = replace(self._given, warnings=tuple(self._warnings(pooled.count)))
        return naming.answer(self._document, given, [(np.zeros(1, np.int64), found)])

    def _warnings(self, read: int) -> list[str]:
        """Those of `predict`, but none that the sequence is short. `read` are the steps of the network."""
        steps = self.steps if self._document.preprocessing.text is None else read
        return unseen.so_far(self._document, replace(self._given, x=self._read.farthest[None]), steps)


class _Texts:
    def __init__(self, document: Document) -> None:
        self._document, self._begins = document, True
        self.farthest = np.empty(0)

    def pushed(self, text: Any) -> list[Callable[[], Floats]]:
        """What each character or word of the next piece of a text is read as."""
        vocabulary = self._document.preprocessing.text
        assert vocabulary is not None, "it is a model of texts"  # noqa: S101
        if not isinstance(text, str):
            raise refused(f"the next piece of a text is a str, and this is {type(text).__name__}")
        if self._document.task == "next_step":
            codes = outcome.read_so_far(vocabulary, text, begins=self._begins).tolist()
        else:
            place = vocabulary.places()
            found = tokens(text, vocabulary.by, lowercase=vocabulary.lowercase)
            codes = [place.get(each, UNKNOWN) for each in found]
        self._begins = False
        return [lambda code=code: np.full(1, code, np.float32) for code in codes]  # type: ignore[misc]


class _Steps:
    """Prepares each step with the one before it, which fills its gaps and which differences are taken to."""

    def __init__(self, document: Document) -> None:
        self._document = document
        fitted = document.preprocessing.steps
        self._fitted = replace(fitted, choices=replace(fitted.choices, max_length=None, stride=1, patch=1))
        self._columns = columns_of(document.features)
        self._before: NDArray[Any] | None = None
        self.farthest: NDArray[Any] = np.full(len(document.features), np.nan)
        """Of each feature the value so far that is farthest from training."""

    def pushed(self, step: Any) -> list[Callable[[], Floats]]:
        x = inputs.of_step(self._document, step)
        self.farthest = unseen.farthest(self._document, self.farthest, x)
        return [lambda: self._prepared(x)]

    def _prepared(self, x: NDArray[Any]) -> Floats:
        """x (features,) as the network reads it, (channels,)."""
        window = x[None] if self._before is None else np.stack((self._before, x))
        found, _ = self._fitted.applied(window[None], np.array([len(window)], np.int64), self._columns)
        if self._fitted.choices.missing == "forward" and self._before is not None:
            self._before = np.where(np.isnan(x), self._before, x)
        else:
            self._before = x
        last: Floats = found[0, -1]
        return last
