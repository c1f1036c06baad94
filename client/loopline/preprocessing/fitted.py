"""All that was fitted on a training split, and how it is applied; see the package for the order of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loopline.files.sequences import Column
from loopline.preprocessing import gaps, scaling, shape
from loopline.preprocessing.choices import Choices as Choices
from loopline.preprocessing.scaling import Scaling
from loopline.preprocessing.texts import Vocabulary

_AT_ONCE = 1 << 22
"""Numbers of x that are worked on at a time."""
WITH_GAPS_LEFT = ("refuse", "drop")
"""Of `missing`: the methods that fill nothing."""


@dataclass(frozen=True)
class Feature:
    """One feature of the file, as training knows it."""

    name: str
    words: tuple[str, ...] | None = None
    """Of a category: the words that training has."""
    fill: float | None = None
    """What stands for a gap that has nothing before it: the mean, of a category the number of its commonest word."""
    mask: bool = False
    """Whether a channel says where it is missing."""
    embedding: int | None = None
    """Numbers of the vector that the network looks up for each word."""

    @property
    def shown(self) -> str:
        """The name in a sentence: `flow`, or feature 3 where features have only numbers."""
        return f"feature {self.name}" if self.name.isdigit() else f"`{self.name}`"


@dataclass(frozen=True)
class Fitted:
    """What was fitted for steps (samples, time, features)."""

    choices: Choices
    features: tuple[Feature, ...]
    scaling: Scaling

    @property
    def is_plain(self) -> bool:
        """Whether scaling is all there is."""
        if self.choices.missing not in WITH_GAPS_LEFT or any(each.words is not None for each in self.features):
            return False
        return replace(self.choices, missing="refuse") == Choices()

    @property
    def embeddings(self) -> list[tuple[int, int]]:
        """Of each channel at the end of a step that is to be looked up: how many vectors there are, and their size."""
        return [(len(each.words or ()) + 1, each.embedding) for each in self.features if each.embedding is not None]

    @property
    def channels(self) -> int:
        """Numbers that the network reads at each step."""
        numbers = len(self._numbers) * (2 if self.choices.differences == "append" else 1)
        words = sum(1 if f.embedding else len(f.words) for f in self.features if f.words is not None)
        return self.choices.patch * (numbers + words + sum(feature.mask for feature in self.features))

    @property
    def _numbers(self) -> list[int]:
        return [place for place, feature in enumerate(self.features) if feature.words is None]

    def applied(
        self, x: NDArray[Any], lengths: NDArray[np.int64], columns: Sequence[Column]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What the network reads, (samples, steps, channels) with zeros as padding, and how long it is. `columns` are
        those of x: their categories may be others than those of training."""
        if self.is_plain:
            return scaling.scaled(x, lengths, self.scaling), lengths
        c = self.choices
        width = shape.steps_read(x.shape[1], c.max_length, c.stride, c.patch)
        found = np.empty((len(x), width, self.channels), np.float32)
        rows = max(1, _AT_ONCE // max(1, x.shape[1] * x.shape[2]))
        read = [np.empty(0, np.int64)]
        for start in range(0, len(x), rows):
            block = slice(start, start + rows)
            found[block], some = self._block(x[block], lengths[block], columns)
            read.append(some)
        return found, np.concatenate(read)

    def _block(
        self, x: NDArray[Any], lengths: NDArray[np.int64], columns: Sequence[Column]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        given, lengths = chosen_steps(x, lengths, self.choices)
        numbered = recoded(given, columns, self.features)
        x = filled(numbered, lengths, self.choices, self.features)
        if self.choices.missing in WITH_GAPS_LEFT:
            x = np.where(np.isnan(x), x.dtype.type(0), x)  # of samples that are left out
        numbers = with_differences(x[:, :, self._numbers], self.choices.differences)
        if self.choices.scaling_over == "per_sequence" and self.scaling.name != "none":
            parts = [scaling.scaled_by_itself(numbers, lengths, self.scaling.name)]
        else:
            parts = [scaling.scaled(numbers, lengths, self.scaling)]
        codes = []
        for place, feature in enumerate(self.features):
            if feature.words is None:
                continue
            code = x[:, :, place].astype(np.int64)
            if feature.embedding is not None:
                codes.append(code[:, :, None].astype(np.float32))
            else:
                parts.append((code[:, :, None] == np.arange(1, len(feature.words) + 1)).astype(np.float32))
        masks = [place for place, feature in enumerate(self.features) if feature.mask]
        parts.append(np.isnan(given[:, :, masks]).astype(np.float32))
        joined = np.concatenate([*parts, *codes], axis=2)
        joined[np.arange(joined.shape[1]) >= lengths[:, None]] = 0.0
        patch = self.choices.patch
        return shape.patches(joined, patch), -(-lengths // patch)

    def mismatch(self, columns: Sequence[Column], what: str) -> str | None:
        """Why steps with these columns cannot be prepared; a sentence without its subject, the model."""
        if len(columns) != len(self.features):
            return f"takes {len(self.features)} {what}, and the data has {len(columns)}"
        for column, feature in zip(columns, self.features, strict=True):
            is_category = column.kind == "category"
            if is_category != (feature.words is not None):
                kinds = ("a category", "a number") if is_category else ("a number", "a category")
                return f"takes {feature.name} as {kinds[1]}, and in the data it is {kinds[0]}"
            named = not (feature.name.isdigit() or column.name.isdigit())
            if named and column.name != feature.name:
                return f"takes {feature.name} where the data has {column.name}"
        return None

    def document(self) -> dict[str, Any]:
        listed = [{**asdict(each), "words": None if each.words is None else list(each.words)} for each in self.features]
        return {**asdict(self.choices), "features": listed}

    @classmethod
    def read(cls, document: Mapping[str, Any], scaled: Scaling) -> Fitted:
        """Undoes `document`. Raises KeyError, TypeError."""
        choices = Choices(**{each.name: document[each.name] for each in fields(Choices)})
        listed = [
            Feature(**{**each, "words": None if each["words"] is None else tuple(each["words"])})
            for each in document["features"]
        ]
        return cls(choices, tuple(listed), scaled)


def chosen_steps(
    x: NDArray[Any], lengths: NDArray[np.int64], choices: Choices
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The steps of x that are read, and its lengths."""
    return shape.chosen_steps(x, lengths, choices.max_length, choices.cut, choices.stride)


def recoded(x: NDArray[Any], columns: Sequence[Column], features: Sequence[Feature]) -> NDArray[Any]:
    """x with the categories of its columns as numbers of the words that training has; a gap stays one."""
    if not any(feature.words is not None for feature in features):
        return x
    x = x.copy()
    for place, (column, feature) in enumerate(zip(columns, features, strict=True)):
        if feature.words is None:
            continue
        numbers = {word: float(number) for number, word in enumerate(feature.words, 1)}
        table = np.array([numbers.get(word, 0.0) for word in column.categories or ()] or [0.0], x.dtype)
        values = x[:, :, place]
        missing = np.isnan(values)
        x[:, :, place] = np.where(missing, np.nan, table[np.where(missing, 0, values).astype(np.int64)])
    return x


def filled(x: NDArray[Any], lengths: NDArray[np.int64], choices: Choices, features: Sequence[Feature]) -> NDArray[Any]:
    """x without gaps, where they are filled at all."""
    if choices.missing in WITH_GAPS_LEFT:
        return x
    fills = np.array([feature.fill for feature in features], np.float64)
    categories = np.array([feature.words is not None for feature in features], np.bool_)
    return gaps.filled(x, lengths, choices.missing, fills, categories)


def with_differences(x: NDArray[Any], choice: str | None) -> NDArray[Any]:
    """x, or its differences, or both."""
    if choice is None:
        return x
    found = shape.differences(x)
    return found if choice == "replace" else np.concatenate((x, found), axis=2)


class Samples(Protocol):
    """Sequences as they are read from a file, such as the service's `Arrays`."""

    def __len__(self) -> int: ...

    @property
    def x_in_memory(self) -> NDArray[Any]:
        """(samples, length, features); steps from `lengths` on are zero."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(samples,)"""
        ...

    @property
    def columns(self) -> Sequence[Column]:
        """What each feature of x is."""
        ...

    @property
    def static(self) -> NDArray[np.float64] | None:
        """(samples, static columns)"""
        ...

    @property
    def static_columns(self) -> Sequence[Column]: ...

    @property
    def texts(self) -> NDArray[np.object_] | None:
        """(samples,): a str each. Then x has no features."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """What was fitted for a data set: for the steps, for the values of whole sequences if it has any, and for texts."""

    steps: Fitted
    """Of texts only its choices are used."""
    static: Fitted | None = None
    text: Vocabulary | None = None

    @property
    def scaling(self) -> Scaling:
        return self.steps.scaling

    @property
    def is_plain(self) -> bool:
        return self.steps.is_plain and self.static is None and self.text is None

    @property
    def embeddings(self) -> list[tuple[int, int]]:
        """Of each channel at the end of a step that is to be looked up: how many vectors there are, and their size."""
        return self.steps.embeddings if self.text is None else [(self.text.rows, self.text.embedding_size)]

    def applied(self, arrays: Samples) -> Inputs:
        if self.text is not None and arrays.texts is not None:
            x, lengths = self.text.applied(arrays.texts, self.steps.choices)
        else:
            x, lengths = self.steps.applied(arrays.x_in_memory, arrays.lengths, arrays.columns)
        return Inputs(x, lengths, self.static_values(arrays))

    def static_values(self, arrays: Samples) -> NDArray[np.float32] | None:
        """What the head reads beside the pooled steps: (samples, values)."""
        if self.static is None or arrays.static is None:
            return None
        once = np.ones(len(arrays), np.int64)
        found, _ = self.static.applied(arrays.static[:, None, :], once, arrays.static_columns)
        return found[:, 0]

    def mismatch(self, arrays: Samples) -> str | None:
        """Why this data cannot be prepared so; a sentence without its subject, the model."""
        known = () if self.static is None else self.static.features
        if (self.text is None) != (arrays.texts is None):
            had, has = ("no texts", "texts") if self.text is None else ("texts", "none")
            return f"takes {had}, and the data has {has}"
        if len(known) != len(arrays.static_columns):
            return f"takes {len(known)} values of whole sequences, and the data has {len(arrays.static_columns)}"
        found = self.steps.mismatch(arrays.columns, "features a step")
        if found is None and self.static is not None:
            found = self.static.mismatch(arrays.static_columns, "values of whole sequences")
        return found

    def document(self) -> dict[str, Any]:
        static = None
        if self.static is not None:
            static = {**self.static.document(), "scaling": self.static.scaling.document()}
        text = {} if self.text is None else {"text": self.text.document()}
        return {**self.steps.document(), "static": static, **text}

    @classmethod
    def read(cls, card: Mapping[str, Any]) -> Preprocessing:
        """That of a model.json, also of an older one, which has the scaling alone. Raises KeyError, TypeError."""
        scaled = Scaling(**card["scaling"])
        if "preprocessing" not in card:
            return cls(Fitted(Choices(), tuple(Feature(str(n)) for n in range(card["input_size"])), scaled))
        document = card["preprocessing"]
        static = document["static"]
        below = None if static is None else Fitted.read(static, Scaling(**static["scaling"]))
        text = Vocabulary.read(document["text"]) if "text" in document else None
        return cls(Fitted.read(document, scaled), below, text)


@dataclass(frozen=True)
class Inputs:
    """What the network reads of some samples."""

    x: NDArray[np.float32]
    """(samples, steps, channels); of texts (steps, channels), one text after the other."""
    lengths: NDArray[np.int64]
    """(samples,)"""
    static: NDArray[np.float32] | None = None
    """(samples, values)"""

    @property
    def channels(self) -> int:
        """Numbers that the network reads at each step."""
        return int(self.x.shape[-1])
