"""Which sequences belong together: those of one person, machine or day, which a split keeps in one part.

The columns to group by are those that name a sequence (`schema.group`), and the values of whole sequences (`static`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from loopline.files.schema import BETWEEN
from numpy.typing import NDArray

from services.training.files.arrays import Arrays

UNNAMED = "id"
"""What the names of sequences are called if no column is known to hold them."""


@dataclass(frozen=True)
class Groups:
    """The groups of a data set by one column."""

    column: str
    names: NDArray[Any]
    """(groups,) sorted: words, or numbers."""
    of: NDArray[np.int64]
    """(samples,): the place of each sample's group in `names`."""


def columns(arrays: Arrays) -> dict[str, bool]:
    """The columns to group by, and whether each is one that names the sequences. The first of those is the default.

    Several columns name a sequence together by their values with `/` between them. If a value has a `/` of its own,
    they cannot be told apart again, and none of them is here.
    """
    found = dict.fromkeys(_naming(arrays), True)
    return found | {column.name: False for column in arrays.static_columns if column.name not in found}


def by(arrays: Arrays, column: str) -> Groups:
    """The groups by one of `columns`. Samples whose value is missing are one group."""
    naming = _naming(arrays)
    if column in naming:
        assert arrays.groups is not None  # noqa: S101
        ids, of_id = np.unique(arrays.groups, return_inverse=True)
        if len(naming) > 1:
            ids = np.array([name.split(BETWEEN)[naming.index(column)] for name in ids.tolist()], np.str_)
        names, of_name = np.unique(ids, return_inverse=True)
        return Groups(column, names, of_name.reshape(-1)[of_id.reshape(-1)])
    place = [each.name for each in arrays.static_columns].index(column)
    assert arrays.static is not None  # noqa: S101
    names, of = np.unique(arrays.static[:, place], return_inverse=True)
    words = arrays.static_columns[place].categories
    if words is not None:
        names = np.array(["" if np.isnan(code) else words[int(code)] for code in names])
    return Groups(column, names, of.reshape(-1))


def _naming(arrays: Arrays) -> tuple[str, ...]:
    if arrays.groups is None:
        return ()
    names = (arrays.schema.group if arrays.schema else None) or (UNNAMED,)
    if len(names) > 1 and (np.char.count(arrays.groups, BETWEEN) != len(names) - 1).any():
        return ()
    return names
