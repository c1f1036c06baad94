"""Finds out which columns of a table are what, and says how sure that is and why.

Nothing is guessed that a person who sees the file would doubt: where no guess is safe, the field stays empty and its
reason says which option to give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from loopline.files import hints, looks
from loopline.files.build import SPLITS
from loopline.files.features import Numbered, numbered
from loopline.files.looks import Look
from loopline.files.names import check_names, named_by
from loopline.files.schema import Layout, Schema
from loopline.files.table import Table
from loopline.files.wide import FEWEST_STEPS

Sure = Literal["given", "certain", "likely", "guess"]
MOST_WORDS = 100
"""A column with more different words is no category, unless it is named as a feature."""


@dataclass(frozen=True)
class Reason:
    """Why a field of the schema is as it is, or why a column is not used (the field `unused`)."""

    field: str
    value: str
    """The field's value in words; `none` if it has none."""
    sure: Sure
    why: str
    """A sentence without its period."""

    def document(self) -> dict[str, str]:
        return {"field": self.field, "value": self.value, "sure": self.sure, "why": self.why}


@dataclass(frozen=True)
class Inferred:
    schema: Schema
    """With every field decided."""
    reasons: tuple[Reason, ...]


def infer(table: Table, given: Schema | None = None) -> Inferred:
    """Decides every field of the schema of a table. What is `given` is checked and kept.

    Raises FileInvalid if a name in `given` is no column, or is given for two things that exclude each other.
    """
    check_names(table, given or Schema())
    return _Inference(table, given or Schema()).made()


class _Inference:
    def __init__(self, table: Table, given: Schema) -> None:
        self.table = table
        self.given = given
        self.look = Look(table.data)
        self.names: list[str] = table.data.column_names
        self._small = {name.lower() for name in self.names}
        self.stems = numbered(self.names)
        self.reasons: dict[str, Reason] = {}
        self.unused: list[Reason] = []
        self.schema = given
        self.taken: set[str] = {
            name
            for role in ("group", "order", "static", "text", "target", "weight", "split")
            for name in named_by(given, role)
        }

    def made(self) -> Inferred:
        for role in ("group", "order", "features", "static", "text", "target", "known_future", "weight", "split"):
            if names := named_by(self.given, role):
                self.reasons[role] = Reason(role, ", ".join(names), "given", "you gave it")
        self._side_columns()
        layout = self._layout()
        self._expand_target(layout)
        if layout == "text":
            self._of_texts()
        elif layout == "wide":
            self._of_wide()
        else:
            self._of_long(layout)
        self._none_of_the_rest()
        order = ("layout", "group", "order", "features", "static", "text", "target", "known_future", "weight", "split")
        return Inferred(self.schema, (*(self.reasons[role] for role in order), *self.unused))

    # ---- deciding

    def _decide(self, role: str, value: str | Sequence[str] | None, sure: Sure, why: str) -> None:
        """Fills a field, unless it is given."""
        if role in self.reasons:
            return
        names = () if value is None else (value,) if isinstance(value, str) else tuple(value)
        plural = role in ("group", "features", "static", "target", "known_future")
        decided: dict[str, Any] = {role: names if plural else (names[0] if names else None)}
        self.schema = replace(self.schema, **decided)
        self.reasons[role] = Reason(role, _listed(names), sure, why)
        self.taken.update(names)

    def _leave_out(self, name: str, why: str, sure: Sure = "likely") -> None:
        self.unused.append(Reason("unused", name, sure, why))
        self.taken.add(name)

    def _free(self, *kinds: str) -> list[str]:
        return [name for name in self.names if name not in self.taken and (not kinds or self.look.kind(name) in kinds)]

    def _side_columns(self) -> None:
        for name in hints.called(hints.SPLITS, self._free("category", "number")):
            words = {str(value).strip().lower() for value in self.look.values(name)[:20]}
            if words and words <= set(SPLITS) and (self.look.kind(name) == "category" or name.lower() == "split"):
                self._decide("split", name, "likely", f"it says {_listed(sorted(words))}")
                break
        for name in hints.called(hints.WEIGHTS, self._free("number")):
            self._decide("weight", name, "likely", f"it is named `{name}` and has numbers")
            break

    def _none_of_the_rest(self) -> None:
        whys = {
            "group": "no column names sequences or series; give it with --group NAME if there is one",
            "order": "the rows are taken in the order of the file; give a column with --order NAME if there is one",
            "static": "no column has one value per sequence",
            "text": "the file has no texts to classify",
            "target": "no column is named like a target; give it with --target NAME, or data.schema.target in a spec",
            "known_future": "only you can know which values are known ahead of time (--known-future NAME)",
            "weight": "no column is named `weight`, so every sequence counts the same",
            "split": "no column says train, validation or test",
            "features": "no column is left for it",
        }
        for role, why in whys.items():
            self._decide(role, None, "guess" if role == "target" else "likely", why)

    # ---- layout

    def _layout(self) -> Layout:
        layout, sure, why = self._layout_and_reason()
        self.schema = replace(self.schema, layout=layout)
        self.reasons["layout"] = Reason("layout", layout, sure, why)
        return layout

    def _layout_and_reason(self) -> tuple[Layout, Sure, str]:
        given = self.given
        if given.layout:
            return given.layout, "given", f"you gave it{self._doubt(given.layout)}"
        if self.table.format in ("text", "folder", "ts"):
            layouts: dict[str, Layout] = {"text": "text", "folder": "files", "ts": "long"}
            return layouts[self.table.format], "certain", f"that is what the format {self.table.format} has"
        if given.order or given.known_future:
            return "long", "certain", f"you gave {'an order' if given.order else 'known_future'}, which only steps have"
        if given.text:
            return "text", "certain", "you gave a column of texts"
        if lists := [name for name in self._pickable() if self.look.kind(name) == "list"]:
            return "wide", "certain", f"`{lists[0]}` has a list in each row, so a row is a sequence"
        return self._by_looks()

    def _doubt(self, layout: Layout) -> str:
        """What speaks against a layout that was given."""
        if layout not in ("wide", "long") or self.table.format in ("text", "folder", "ts"):
            return ""
        found, sure, why = self._by_looks()
        return f", though it looks {found}: {why}" if found != layout and sure != "guess" else ""

    def _by_looks(self) -> tuple[Layout, Sure, str]:
        stem = max(self._stems(), key=lambda stem: len(stem.columns), default=None)
        group, order = self._place()
        in_steps = (
            order is not None and not self.look.unique([order[0]]) and self.look.nearly_unique([*group[0], order[0]])
        )
        if stem and not in_steps and (order is None or len(stem.columns) >= looks.MANY_STEPS):
            many = len(stem.columns)
            repeats = bool(group[0]) and not self.look.unique(group[0]) and many < looks.MANY_STEPS
            if not repeats:
                why = (
                    f"`{stem.columns[0]}` to `{stem.columns[-1]}` are {many:,} numbered columns, so a row is a sequence"
                )
                return "wide", "likely" if many >= looks.MANY_STEPS and order is None else "guess", why
        if (text := self._text_column()) and order is None:
            return "text", *text[1:]
        if order is not None:
            return "long", "likely", f"`{order[0]}` has the place of each row, so a row is a step"
        if group[0] and not self.look.unique(group[0]):
            return (
                "long",
                "guess" if stem else "likely",
                f"rows that follow each other have the same `{group[0][0]}`, so a row is a step",
            )
        return self._by_smoothness()

    def _by_smoothness(self) -> tuple[Layout, Sure, str]:
        """Nothing names rows or columns: steps are along the side on which numbers change little."""
        names = [name for name in self._pickable() if self.look.kind(name) == "number"]
        names = [name for name in names if name not in hints.called(hints.TARGETS, names)]
        if len(names) >= looks.MANY_STEPS:
            along_rows, along_columns = self.look.roughness(names)
            if along_columns < looks.SMOOTH < along_rows:
                return "wide", "guess", f"values change little from one of the {len(names):,} columns to the next"
            if along_rows >= looks.SMOOTH:
                why = (
                    f"rows have nothing to do with the rows above them, and there are {len(names):,} columns of numbers"
                )
                return "wide", "guess", why
        return "long", "guess", "no columns are numbered, so each row is taken as a step; say --layout wide if not"

    def _pickable(self) -> list[str]:
        """The columns that may be features: those given, or all that are free."""
        if not self.given.features:
            return self._free()
        stems = [
            name for feature in self.given.features if feature in self.stems for name in self.stems[feature].columns
        ]
        return [*stems, *(name for name in self.given.features if name in self.names)]

    def _stems(self) -> list[Numbered]:
        """Numbered columns of numbers or words that may be the steps of a feature."""
        found = [self._without_taken(stem) for name, stem in self.stems.items() if name not in self.taken]
        if self.given.features:
            found = [stem for stem in found if stem.name in self.given.features]
        kinds = ("number", "boolean", "empty", "category")
        return [
            stem
            for stem in found
            if len(stem.columns) >= FEWEST_STEPS and all(self.look.kind(name) in kinds for name in stem.columns)
        ]

    def _without_taken(self, stem: Numbered) -> Numbered:
        return replace(stem, columns=tuple(name for name in stem.columns if name not in self.taken))

    def _text_column(self) -> tuple[str, Sure, str] | None:
        words = self._free("category")
        named = [name for name in hints.called(hints.TEXTS, words) if self.look.has_sentences(name)]
        if named:
            return (
                named[0],
                "likely",
                f"`{named[0]}` is named like a text and has {self.look.words_each(named[0])} words a row",
            )
        long_ones = [name for name in words if self.look.is_text(name)]
        if len(long_ones) == 1 and len(self._free("number")) <= 2:
            name = long_ones[0]
            return name, "guess", f"`{name}` has {self.look.words_each(name)} words a row, nearly all of them different"
        return None

    # ---- group and order of rows that are steps

    def _place(self) -> tuple[tuple[tuple[str, ...], Sure, str], tuple[str, Sure, str] | None]:
        """The group and the order that explain each other: together they are different in each row."""
        found: tuple[tuple[str, ...], Sure, str]
        order_names = [self.given.order] if self.given.order else self._order_candidates()
        group_names = [self.schema.group] if self.schema.group is not None else self._group_candidates()
        for order in order_names:
            for group in group_names:
                if self._explains(group, order):
                    return self._group_reason(group, order), (order, *self._order_reason(order, group))
        if self.schema.group is not None:
            found = self.schema.group, "given", "you gave it"
        else:
            found = self._group_reason(
                next((group for group in group_names if group and self._in_runs(group)), ()), None
            )
        surest = next((name for name in order_names if self.given.order or self.look.kind(name) == "time"), None)
        return found, (surest, "guess", "it is a time, but not different in each row") if surest else None

    def _explains(self, group: Sequence[str], order: str) -> bool:
        if order in group:
            return False
        if not group:
            return self.look.unique([order])
        by_name = self.schema.group is not None or all(hints.names_group(name) for name in group)
        if not (self.look.nearly_unique if by_name else self.look.unique)([*group, order]):
            return False
        repeated = self.look.distinct(group) <= self.look.rows / 2
        if not repeated or by_name:
            return repeated
        return not self.look.unique([order]) and (self._in_runs(group) or self.look.counts_within(order, group))

    def _in_runs(self, group: Sequence[str]) -> bool:
        distinct = self.look.distinct(group)
        return self.look.runs(group) == distinct and 1 < distinct <= self.look.rows / 2

    def _group_candidates(self) -> list[tuple[str, ...]]:
        """By name first, then pairs of those, then none, then by what they hold."""
        free = [name for name in self._free("category", "number", "boolean") if self.look.may_name(name)]
        targets = hints.called(hints.TARGETS, free)
        free = [name for name in free if name not in targets and name.lower() not in hints.ORDERS]
        named = [name for name in free if hints.names_group(name) and self.look.distinct([name]) > 1]
        pairs = [(one, other) for place, one in enumerate(named[:6]) for other in named[place + 1 : 6]]
        rest = [name for name in free if name not in named and name not in self._in_stems()]
        return [*((name,) for name in named), *pairs, (), *((name,) for name in rest)]

    def _in_stems(self) -> set[str]:
        return {name for stem in self.stems.values() if len(stem.columns) >= FEWEST_STEPS for name in stem.columns}

    def _order_candidates(self) -> list[str]:
        times = self._free("time")
        named = hints.called_order(times)
        numbers = [name for name in hints.called_order(self._free("number")) if name not in self._in_stems()]
        return [*named, *(name for name in times if name not in named), *filter(self.look.counts_up, numbers)]

    def _group_reason(self, group: Sequence[str], order: str | None) -> tuple[tuple[str, ...], Sure, str]:
        if not group:
            return (), "likely", "all rows are one series" + (f": `{order}` is different in each row" if order else "")
        distinct, runs = self.look.distinct(group), self.look.runs(group)
        where = "each on adjacent rows, " if runs == distinct else ""
        sure: Sure = "likely" if all(hints.names_group(name) for name in group) else "guess"
        return tuple(group), sure, f"{distinct:,} different values, {where}in {self.look.of_rows}"

    def _order_reason(self, order: str, group: Sequence[str]) -> tuple[Sure, str]:
        what = {"time": "has times", "category": "has words"}.get(self.look.kind(order), "has numbers that count up")
        within = f" of one `{_listed(group)}`" if group else ""
        nearly = "" if self.look.unique([*group, order]) else "nearly "
        return "likely", f"it {what}, different in {nearly}each row{within}"

    # ---- the layouts

    def _of_long(self, layout: Layout) -> None:
        if layout == "files" and "file" in self.names:
            self._decide(
                "group", "file", "certain", f"each of the {self.look.distinct(['file']):,} files is a sequence"
            )
        if layout == "files" and "folder" in self.names and "folder" not in self.taken:
            self._decide("target", "folder", "likely", f"the files are in {self.look.distinct(['folder']):,} folders")
        group, order = self._place()
        self._decide("group", *group)
        if order:
            self._decide("order", *order)
        self._target()
        self._leave_out_counters()
        if not self.given.features:
            self._static_of_groups()
        self._features(("number", "boolean", "category"), "every other column of numbers or of few words")

    def _of_wide(self) -> None:
        self._decide("order", None, "certain", "the columns, or the lists, are in the order of the steps")
        self._target()
        self._names_of_rows()
        stems = self._stems()
        longest = max((len(stem.columns) for stem in stems), default=0)
        stems = [stem for stem in stems if len(stem.columns) * 4 > longest]
        lists = self._free("list")
        if lists:
            self._decide("features", lists, "certain", "these columns have lists")
        elif stems:
            counted = sorted({len(stem.columns) for stem in stems})
            why = (
                f"{_counted(len(stems), 'feature')} of {_listed([f'{count:,}' for count in counted])} numbered columns"
            )
            self._decide("features", [stem.name for stem in stems], "certain" if len(counted) == 1 else "guess", why)
            self.taken.update(name for stem in stems for name in self.stems[stem.name].columns)
        else:
            self._leave_out_counters()
            numbers = self._free("number", "boolean")
            why = f"{len(numbers):,} unnumbered columns of numbers, together one feature of as many steps"
            self._decide("features", numbers, "guess", why)
        self._static_of_rows()

    def _of_texts(self) -> None:
        found = self._text_column()
        if self.table.format == "text" and "text" in self.names:
            self._decide("text", "text", "certain", "each line is a text")
        elif found:
            self._decide("text", *found)
        self._decide("order", None, "certain", "texts have no steps in a column")
        self._decide("features", None, "certain", "the text itself is what a model reads")
        self._target()
        self._names_of_rows()
        self._decide("static", None, "likely", "a text is read alone; give columns with --static NAME")
        for name in self._free():
            self._leave_out(name, "a text is read alone")

    # ---- target, features, static

    def _expand_target(self, layout: Layout) -> None:
        """A target that names numbered columns is all of them, unless they are the steps of a wide file."""
        names: list[str] = []
        longest = max((len(stem.columns) for stem in self._stems()), default=0)
        for name in self.given.target or ():
            stem = None if name in self.names else self.stems[name]
            if stem and (layout != "wide" or len(stem.columns) != longest):
                names += stem.columns
            else:
                names.append(name)
                self.taken.update(stem.columns if stem else ())
        self.taken.update(names)
        if self.given.target:
            self.schema = replace(self.schema, target=tuple(names))

    def _target(self) -> None:
        if "target" in self.reasons:
            return
        free = [name for name in self._free() if self.look.kind(name) not in ("time", "other", "empty")]
        if self.given.features:
            free = [name for name in free if name not in self.given.features]
        named = [name for name in hints.called(hints.TARGETS, free) if not (name.lower() == "y" and "z" in self._small)]
        if named:
            others = f"; `{named[1]}` could be it too" if len(named) > 1 else ""
            self._decide("target", named[0], "guess" if others else "likely", f"it is named `{named[0]}`{others}")
            return
        suffixed = [name for name in free if re.search(r"(^target_|_(label|class|target)$)", name.lower())]
        if len(suffixed) == 1:
            self._decide("target", suffixed[0], "likely", f"its name says {re.split('_', suffixed[0])[-1]}")
            return
        if len(free) > looks.MANY_STEPS and all(re.fullmatch(r"column_\d+", name) for name in free):
            for name, place in ((free[0], "first"), (free[-1], "last")):
                if self.look.is_label(name) and not any(map(self.look.may_name, set(free[1:-1]))):
                    why = f"it is the {place} column, and the only one with whole numbers or words"
                    self._decide("target", name, "guess", why)
                    return
        last = self.names[-1]
        if last in free and self.look.kind(last) == "category" and 1 < self.look.distinct([last]) <= self.look.rows / 2:
            why = f"it is the last column and has {self.look.distinct([last]):,} different words"
            self._decide("target", last, "guess", why)

    def _features(self, kinds: Sequence[str], why: str) -> None:
        if not self.given.features:
            for name in self._free():
                if self.look.kind(name) not in kinds or self.look.distinct_words(name) > MOST_WORDS:
                    self._leave_out(name, self._why_not(name))
        names = self._free(*kinds)
        self._decide("features", names, "likely", why)
        missing = [name for name in self.given.known_future or () if name not in (self.schema.features or ())]
        self.schema = replace(self.schema, features=(*(self.schema.features or ()), *missing))

    def _why_not(self, name: str) -> str:
        kind = self.look.kind(name)
        if kind == "category":
            return f"it has {self.look.distinct_words(name):,} different words in {self.look.of_rows}"
        whys = {"time": "it has dates or times and is not the order", "empty": "it has no values"}
        return whys.get(kind, f"it has values of the type {self.table.data.schema.field(name).type}")

    def _leave_out_counters(self) -> None:
        for name in self._free("number"):
            if self.look.counts_rows(name) and name.lower() in hints.COUNTERS:
                self._leave_out(name, "it counts the rows of the file")
        order = self.schema.order
        for name in hints.called_order(self._free("number")) if order and not self.given.features else ():
            if (
                name not in self._in_stems()
                and self.look.unique([*(self.schema.group or ()), name])
                and self.look.counts_up(name)
            ):
                self._leave_out(name, f"it counts the steps, as `{order}` does")

    def _static_of_groups(self) -> None:
        group = self.schema.group or ()
        if not group or self.look.distinct(group) < 2:
            return
        words = self._free("number", "boolean", "category")
        self._group_owners([name for name in words if self.look.constant_in(name, group)])
        found = [
            name
            for name in self._free("number", "boolean", "category")
            if name not in (self.given.known_future or ())
            and self.look.distinct_words(name) <= MOST_WORDS
            and self.look.constant_in(name, group)
        ]
        if found:
            self._decide("static", found, "likely", f"one value in each `{_listed(group)}`")

    def _static_of_rows(self) -> None:
        if self.given.features:
            self._decide("static", None, "likely", "you gave the features; give other columns with --static NAME")
            return
        self._group_owners(self._free("number", "category"))
        for name in self._free():
            if self.look.kind(name) not in ("number", "boolean", "category") or (
                self.look.distinct_words(name) > min(MOST_WORDS, self.look.rows / 2)
            ):
                self._leave_out(name, self._why_not(name))
            elif self.look.counts_rows(name):
                self._leave_out(name, "it counts the rows of the file")
        if names := self._free("number", "boolean", "category"):
            self._decide("static", names, "likely", "each has one value per sequence")

    def _group_owners(self, names: Sequence[str]) -> None:
        """Of columns with one value per sequence, those that name whom it belongs to. A split may go by them, so they
        stand before the names of the sequences. A model would learn them by heart, so they are no static values."""
        for name in names:
            if not hints.names_group(name) or not self.look.may_name(name) or name in (self.given.known_future or ()):
                continue
            group, before = (name, *(self.schema.group or ())), self.reasons.get("group")
            if before is None:
                self._decide("group", name, "likely", "it names whom a sequence belongs to")
            elif self.given.group is None and all(map(self.look.may_be_joined, group)):
                why = f"{before.why}; `{name}` names whom a sequence belongs to"
                self.schema = replace(self.schema, group=group)
                self.reasons["group"] = replace(before, value=_listed(group), why=why)
                self.taken.add(name)
            else:
                why = "it names whom a sequence belongs to, which a model would learn by heart"
                self._leave_out(name, f"{why}; to learn from it all the same, give --static {name}")

    def _names_of_rows(self) -> None:
        """The group of rows that are sequences: their id, or whom they belong to."""
        candidates = [
            name for name in self._free("category", "number") if hints.names_group(name) and self.look.may_name(name)
        ]
        candidates = [name for name in candidates if name not in self._in_stems()]
        for name in sorted(candidates, key=lambda name: not self.look.unique([name])):
            if self.look.unique([name]):
                self._decide("group", name, "likely", "its name says id, and it is different in each row")
            else:
                distinct = self.look.distinct([name])
                self._decide("group", name, "likely", f"{distinct:,} different values name whom the rows belong to")
            return
        for name in self._free("category"):
            if name not in self._in_stems() and self.look.unique([name]) and not self.look.is_text(name):
                self._decide("group", name, "guess", "its words are different in each row")
                return


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    if len(names) > 8:
        return f"{', '.join(names[:6])} and {len(names) - 6:,} more"
    return ", ".join(names)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
