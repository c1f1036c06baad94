"""What may be wrong with a data set: for each remark where, in which columns, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from loopline.files import leaks, long
from loopline.files.features import Reader, Rows
from loopline.files.remark import Remark
from loopline.files.sequences import Sequences
from loopline.files.surveys import Survey, Times, moment
from loopline.files.table import Table

_ORDER = ("problem", "warning", "note")
_SHOWN = 3
_FEW = 0.1
"""Of the sequences, those whose classes may have been mistyped."""
_MOST_COMPARED = 100
"""Classes whose words are compared with each other."""
_ALIKE = 0.75
"""How much two words have in common if one may be the other, mistyped (`difflib`)."""
_STATED = "a spec that names a cell or a preset says so itself (data.missing: drop, forward, mean or linear)"
_FILL = f"a job fills them with the value before; {_STATED}"
_FILL_STATIC = f"a job fills them with the mean; {_STATED}"


class _Places:
    """Names sequences and steps: by the rows of the table if there is one."""

    def __init__(self, sequences: Sequences, table: Table | None) -> None:
        self._sequences = sequences
        self._table = table
        self._ends = np.cumsum(sequences.lengths)

    @cached_property
    def _rows(self) -> Rows | None:
        """The row of each step of a table with one row per step."""
        schema = self._sequences.schema
        if self._table is None or schema.layout in ("wide", "text"):
            return None
        return long.arranged(Reader(self._table), schema.group or (), schema.order).row_of(np.arange(self._ends[-1]))

    def sequence(self, number: int) -> str:
        row = None
        if self._table is not None and self._sequences.schema.layout in ("wide", "text"):
            row = self._table.row_name(number)
        if self._sequences.ids is not None:
            return f"sequence `{self._sequences.ids[number]}`{f' ({row})' if row else ''}"
        return row or f"sequence {number + 1:,}"

    def step(self, step: int) -> str:
        number = int(np.searchsorted(self._ends, step, side="right"))
        if self._table is not None and self._rows is not None:
            return self._table.row_name(int(self._rows[step]))
        within = step - int(self._ends[number] - self._sequences.lengths[number])
        if self._table is not None and self._sequences.schema.layout == "wide":
            return f"{self._table.row_name(number)}, step {within + 1:,}"
        return f"{self.sequence(number)}, step {within + 1:,}"

    def first(self, steps: Rows) -> str:
        """The first of these steps: in the file, where a row of it is a step."""
        if self._table is not None and self._rows is not None:
            return self._table.row_name(int(self._rows[steps].min()))
        return self.step(int(steps[0]))

    def sequence_of(self, step: int) -> str:
        """The sequence of a step, or nothing if there is only one."""
        return self.sequence(int(np.searchsorted(self._ends, step, side="right"))) if len(self._ends) > 1 else ""

    def sequences(self, numbers: Sequence[int] | Rows) -> str:
        return _and([self.sequence(int(number)) for number in numbers[:_SHOWN]], len(numbers))


def of(sequences: Sequences, survey: Survey, times: Times | None, table: Table | None) -> tuple[Remark, ...]:
    """Every remark, the problems first."""
    places = _Places(sequences, table)
    found = [
        *_of_what_is_there(sequences),
        *_of_classes(sequences, places),
        *_of_features(sequences, survey, places),
        *_of_static(sequences, places),
        *_of_missing_targets(sequences, places),
        *leaks.of(sequences),
        *_of_equal_sequences(sequences, survey, places),
        *_of_ids(sequences),
        *(_of_times(sequences, times, places) if times else ()),
        *(table.remarks if table else ()),
        *(Remark("note", "note", (), "", note) for note in (*(table.notes if table else ()), *sequences.notes)),
    ]
    return tuple(sorted(found, key=lambda remark: _ORDER.index(remark.severity)))


# ---- as a whole


def _of_what_is_there(sequences: Sequences) -> Iterator[Remark]:
    count = len(sequences.lengths)
    if not sequences.features and sequences.texts is None and sequences.targets != "step_values":
        yield Remark("problem", "no_features", (), "", "no feature is left for a model; name some (--features NAME)")
    if sequences.y is None and sequences.texts is not None:
        detail = (
            "the texts have no labels, so a model can learn to predict how they go on (task: next_step); for labels, "
            "name a target (--target NAME), or write a tab and the label in each line"
        )
        yield Remark("note", "no_labels", (), "", detail)
    elif sequences.y is None:
        out = "name a target (--target NAME, or data.schema.target in a spec)"
        if sequences.static_columns:
            names = [f"`{column.name}`" for column in sequences.static_columns]
            out += f", such as {_or(names[:_SHOWN])}, with one value for each sequence"
        if sequences.schema.target is None:  # there are no columns
            out = "for targets, save x and y with np.savez"
        yield Remark("warning", "no_target", (), "", f"there is nothing to predict but the next step; {out}")
    elif count == 1 and sequences.targets in ("classes", "multilabel", "values"):
        out = "give the column that names the sequence of a row (--group NAME), or more sequences"
        yield Remark("problem", "one_sequence", (), "", f"there is one sequence, and nothing to test on; {out}")
    if count > 1 and sequences.texts is None and int(sequences.lengths.max()) == 1:
        yield Remark(
            "warning",
            "one_step",
            (),
            "",
            "every sequence has one step, so there is no order to learn from; is each row a step of a longer sequence? "
            "Then give --group and --order",
        )


def _or(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _of_classes(sequences: Sequences, places: _Places) -> Iterator[Remark]:
    if sequences.classes is None or sequences.y is None:
        return
    target = sequences.target_names
    counts = np.bincount(sequences.y, minlength=len(sequences.classes))
    what = "step" if sequences.targets == "tags" else "sequence"
    if len(sequences.classes) == 1:
        detail = (
            f"every {what} has the class {sequences.classes[0]!r}, so there is nothing to learn; give another target"
        )
        yield Remark("problem", "one_class", target, "", detail)
    mistyped = _mistyped(sequences) if what == "sequence" else None
    if mistyped is not None:
        wrong, right = mistyped
        numbers = np.flatnonzero(np.asarray(sequences.classes)[sequences.y] == wrong)
        yield Remark(
            "warning",
            "mistyped_class",
            target,
            places.sequences(numbers),
            f"only {_counted(len(numbers), 'sequence')} {'has' if len(numbers) == 1 else 'have'} the class {wrong!r}; "
            f"did you mean {right!r}? Correct it, or leave it out: it is too few to learn and to test",
        )
    rare = np.flatnonzero(counts == 1)
    if mistyped is not None:
        rare = rare[np.asarray(sequences.classes)[rare] != mistyped[0]]
    if rare.size and len(sequences.classes) > 1:
        named = _and([repr(sequences.classes[code]) for code in rare[:_SHOWN]], len(rare))
        if what == "sequence":
            first = np.flatnonzero(np.isin(sequences.y, rare))[:_SHOWN]
            where = places.sequences(first)
        else:
            where = places.step(int(np.flatnonzero(sequences.y == rare[0])[0]))
        yield Remark(
            "warning",
            "rare_class",
            target,
            where,
            f"only one {what} has the class {named}, which is too few to learn and to test; add some, or leave it out",
        )
    if what == "step":
        yield from _of_nearly_constant_tags(sequences, places)
    if sequences.split is not None:
        yield from _of_unseen_classes(sequences, target)


def _of_nearly_constant_tags(sequences: Sequences, places: _Places) -> Iterator[Remark]:
    """A class that is wrong in a few rows makes the classes of sequences look like tags of steps."""
    assert sequences.y is not None  # noqa: S101
    count = len(sequences.lengths)
    starts = np.cumsum(sequences.lengths) - sequences.lengths
    other = np.flatnonzero(sequences.y != np.repeat(sequences.y[starts], sequences.lengths))
    varying = np.unique(np.searchsorted(starts, other, side="right"))
    if 0 < len(varying) <= _FEW * count:
        [name] = sequences.target_names
        if mistyped := _mistyped(sequences):
            wrong, right = mistyped
            steps = np.flatnonzero(np.asarray(sequences.classes)[sequences.y] == wrong)
            yield Remark(
                "problem",
                "mistyped_class",
                (name,),
                _and([places.step(int(step)) for step in steps], len(steps)),
                f"`{name}` is {wrong!r} here alone; did you mean {right!r}? Correct it, or delete the rows: a class of "
                "so few steps cannot be learnt",
            )
            return
        yield Remark(
            "warning",
            "nearly_constant_tags",
            (name,),
            _and([places.step(int(step)) for step in other[:_SHOWN]], len(other)),
            f"`{name}` changes within {len(varying):,} of {count:,} sequences, and is taken as a class for each step; "
            "if it is meant as one class for a whole sequence, give all rows of a sequence the same",
        )


def _mistyped(sequences: Sequences) -> tuple[str, str] | None:
    """A word that a few steps, or sequences, have as their class, and the usual one that it resembles."""
    assert sequences.y is not None and sequences.classes is not None  # noqa: S101, PT018
    counts = dict(zip(sequences.classes, np.bincount(sequences.y).tolist(), strict=True))
    usual = [str(word) for word, count in counts.items() if count > _SHOWN]
    rare = [str(word) for word, count in counts.items() if count <= _SHOWN and str(word).isalpha()]
    if len(counts) > _MOST_COMPARED:
        return None
    known = {word.casefold(): word for word in reversed(usual)}
    found = ((word, difflib.get_close_matches(word.casefold(), known, 1, _ALIKE)) for word in rare)
    return next(((word, known[close[0]]) for word, close in found if close), None)


def _of_unseen_classes(sequences: Sequences, target: tuple[str, ...]) -> Iterator[Remark]:
    assert sequences.split is not None and sequences.y is not None and sequences.classes is not None  # noqa: S101, PT018
    parts = np.repeat(sequences.split, sequences.lengths) if sequences.targets == "tags" else sequences.split
    seen = np.unique(sequences.y[parts == 0])
    unseen = np.setdiff1d(np.unique(sequences.y), seen)
    if not seen.size:
        yield Remark("problem", "no_training", (), "", "the split has no sequence for training; mark some with train")
    elif unseen.size:
        named = _and([repr(sequences.classes[code]) for code in unseen[:_SHOWN]], len(unseen))
        yield Remark(
            "warning",
            "unseen_class",
            target,
            "",
            f"training never sees the class {named}, which only validation or test has; move some of it to train",
        )


# ---- features


def _of_features(sequences: Sequences, survey: Survey, places: _Places) -> Iterator[Remark]:
    names = [column.name for column in sequences.features]
    steps = int(sequences.lengths.sum())
    for place in np.flatnonzero(survey.missing == steps):
        yield Remark("problem", "empty_feature", (names[place],), "", f"`{names[place]}` has no values; leave it out")
    some = np.flatnonzero((survey.missing > 0) & (survey.missing < steps))
    for place in some:
        count = int(survey.missing[place])
        yield Remark(
            "warning",
            "missing_values",
            (names[place],),
            places.first(np.flatnonzero(np.isnan(sequences.x[:, place]))),
            f"`{names[place]}` has {_counted(count, 'missing value')} ({_share(count, steps)}); {_FILL}",
        )
    constant = [names[place] for place in np.flatnonzero((survey.low == survey.high) & (steps > 1))]
    if constant:
        is_ = "is" if len(constant) == 1 else "are"
        yield Remark(
            "warning",
            "constant_feature",
            tuple(constant),
            "",
            f"{_and([f'`{name}`' for name in constant[:_SHOWN]], len(constant))} {is_} the same in every step, which "
            "says nothing; leave it out (--features)",
        )


def _of_static(sequences: Sequences, places: _Places) -> Iterator[Remark]:
    if sequences.static is None:
        return
    empty = np.isnan(sequences.static)
    for place, column in enumerate(sequences.static_columns):
        rows = np.flatnonzero(empty[:, place])
        if rows.size:
            yield Remark(
                "warning",
                "missing_values",
                (column.name,),
                places.sequences(rows),
                f"`{column.name}` has {_counted(len(rows), 'missing value')}; {_FILL_STATIC}",
            )


def _of_missing_targets(sequences: Sequences, places: _Places) -> Iterator[Remark]:
    if sequences.targets != "step_values" or sequences.y is None:
        return
    empty = np.isnan(sequences.y)
    for place, name in enumerate(sequences.target_names):
        steps = np.flatnonzero(empty[:, place])
        if steps.size:
            yield Remark(
                "warning",
                "missing_targets",
                (name,),
                places.first(steps),
                f"the target `{name}` has {_counted(len(steps), 'missing value')} ({_share(len(steps), len(empty))}); "
                f"{_FILL}",
            )


# ---- sequences


def _of_equal_sequences(sequences: Sequences, survey: Survey, places: _Places) -> Iterator[Remark]:
    numbers = np.arange(len(survey.same_as))
    copies = np.flatnonzero(survey.same_as != numbers)
    if not copies.size or (sequences.texts is None and not sequences.features):
        return
    if sequences.texts is not None and sequences.y is None:
        return  # the lines of one text
    first, original = int(copies[0]), int(survey.same_as[copies[0]])
    where = places.sequences(copies)
    are = "is a copy of another one" if len(copies) == 1 else "are copies of others"
    like = f"for example {places.sequence(first)} and {places.sequence(original)}"
    yield Remark(
        "warning",
        "equal_sequences",
        (),
        where,
        f"{_counted(len(copies), 'sequence')} {are} ({like}); copies in both training and test make a model look "
        "better than it is. Delete them, or give a split",
    )
    if sequences.targets == "classes" and sequences.y is not None:
        odd = copies[sequences.y[copies] != sequences.y[survey.same_as[copies]]]
        if odd.size:
            yield Remark(
                "warning",
                "contradiction",
                sequences.target_names,
                places.sequences(odd),
                f"{_counted(len(odd), 'sequence')} {'has' if len(odd) == 1 else 'have'} another class than a copy of "
                f"it, for example {places.sequence(int(survey.same_as[odd[0]]))}; check the labels",
            )


def _of_ids(sequences: Sequences) -> Iterator[Remark]:
    if sequences.ids is None:
        return
    names, which, counts = np.unique(sequences.ids, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts > 1)
    if not repeated.size:
        return
    group = sequences.schema.group or ()
    named = _and([f"`{names[place]}`" for place in repeated[:_SHOWN]], len(repeated))
    yield Remark(
        "warning",
        "repeated_ids",
        group,
        "",
        f"{named} {'names' if len(repeated) == 1 else 'name'} several sequences; a random split would put them into "
        "both training and test. Split by group (data.split.method: group)",
    )
    if sequences.split is not None:
        parts = np.unique(np.stack([which.reshape(-1), sequences.split], axis=1), axis=0)
        owners, times = np.unique(parts[:, 0], return_counts=True)
        shared = owners[times > 1]
        if shared.size:
            named = _and([f"`{names[place]}`" for place in shared[:_SHOWN]], len(shared))
            detail = (
                f"{named} {'is' if len(shared) == 1 else 'are'} in more than one part of the split; keep each in one"
            )
            yield Remark("warning", "split_groups", group, "", detail)


def _of_times(sequences: Sequences, times: Times, places: _Places) -> Iterator[Remark]:
    order = (sequences.schema.order or "",)
    assert sequences.times is not None  # noqa: S101
    if times.usual is None:
        yield Remark(
            "note",
            "uneven_steps",
            order,
            "",
            f"steps are not evenly spaced: from {times.shortest} to {times.longest}. If that matters, add the time "
            "since the step before as a feature",
        )
    if not times.gaps.size:
        return
    is_time = sequences.time_kind == "time"
    shown = []
    for step, missing in zip(times.gaps[:_SHOWN], times.missing[:_SHOWN], strict=True):
        of_sequence = places.sequence_of(int(step))
        after = moment(sequences.times[step], is_time)
        shown.append(f"{_counted(int(missing), 'step')} after {after}{f' in {of_sequence}' if of_sequence else ''}")
    yield Remark(
        "warning",
        "gaps",
        order,
        places.step(int(times.gaps[0])),
        f"{_counted(len(times.gaps), 'gap')} where the usual step is {times.usual}: {_and(shown, len(times.gaps))}. "
        "The rows around a gap count as neighbours, except in a forecast: there data.missing adds the missing rows and "
        "fills them. For other tasks add them with empty cells",
    )


def _and(words: Sequence[str], count: int) -> str:
    more = count - len(words)
    parts = [*words, f"{more:,} more"] if more > 0 else list(words)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _share(count: int, of_all: int) -> str:
    return f"{100 * count / of_all:.2g} %"
