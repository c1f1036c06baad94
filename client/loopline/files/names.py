"""Checks the names in a schema against the columns of a table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from loopline.files.features import Numbered, kind_of, numbered
from loopline.files.problems import Findings
from loopline.files.schema import Schema
from loopline.files.table import Table

ROLES = ("group", "order", "features", "static", "text", "target", "known_future", "weight", "split")
_ONLY_ROLE = ("group", "order", "static", "text", "weight", "split")
"""A column with one of these roles has one value per row, and no other role. A target may be a feature as well: the
past of a forecast."""


def check_names(table: Table, schema: Schema) -> None:
    """Raises FileInvalid if the schema names a column that is not there, or gives one column two roles."""
    columns = table.data.column_names
    findings = Findings()
    twice = sorted({name for name in columns if columns.count(name) > 1}) if len(set(columns)) < len(columns) else []
    for name in twice:
        findings.add(f"column {name}", f"two columns have the name `{name}`; rename one")
    stems = numbered(columns)
    for role in ROLES:
        for name in named_by(schema, role):
            if name not in columns and name not in stems:
                findings.add(role, f"there is no column `{name}`{_near(name, [*columns, *stems])}")
            elif name not in columns and role not in ("features", "target", "known_future"):
                findings.add(role, f"{_stem(stems[name])}, and {role} takes single columns")
            elif role in _ONLY_ROLE and name not in twice:
                _check_plain(table, role, name, findings)
    for role in _ONLY_ROLE:
        for other in ROLES:
            if other != role and (other not in _ONLY_ROLE or ROLES.index(other) > ROLES.index(role)):
                both = sorted(set(named_by(schema, role)) & set(named_by(schema, other)))
                _add_both(findings, role, other, both)
    if not table.data.num_rows:
        findings.add("", "the file has no rows")
    findings.check()


def _check_plain(table: Table, role: str, name: str, findings: Findings) -> None:
    """Refuses lists and the like where one value is needed."""
    type_ = table.data.schema.field(name).type
    if kind_of(type_) in ("list", "other"):
        what = "lists" if kind_of(type_) == "list" else f"values of the type {type_}"
        findings.add(f"column {name}", f"`{name}` has {what}, and {role} takes one value per row")


def _add_both(findings: Findings, role: str, other: str, names: Iterable[str]) -> None:
    for name in names:
        findings.add(f"column {name}", f"`{name}` cannot be both {role} and {other}; name it once")


def named_by(schema: Schema, role: str) -> tuple[str, ...]:
    """The columns that a schema names for a role."""
    value = getattr(schema, role)
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _stem(stem: Numbered) -> str:
    first, last = stem.columns[0], stem.columns[-1]
    return f"`{stem.name}` is the name of {len(stem.columns):,} numbered columns, `{first}` to `{last}`"


def _near(name: str, known: Iterable[str]) -> str:
    names: Mapping[str, str] = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), list(names), n=2, cutoff=0.6)
    if not close:
        shown = ", ".join(f"`{one}`" for one in list(names.values())[:8])
        return f"; the columns are {shown}{' and more' if len(names) > 8 else ''}"
    return f"; did you mean {' or '.join(f'`{names[one]}`' for one in close)}?"
