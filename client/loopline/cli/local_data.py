"""Whether a file on this computer fits a spec, before the service has it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loopline.errors import Problem
from loopline.files import gaps

if TYPE_CHECKING:
    from loopline.files.grids import Grid
    from loopline.files.inspection import Inspection
    from loopline.files.remark import Remark
    from loopline.spec import SpecFile

MISSING = "data.missing"
REFUSE, CHOSEN = "refuse", "chosen by the service"
OF_VALUES = ("missing_values", "missing_targets")
"""Remarks that tell somebody to set data.missing."""


def problems(spec: SpecFile, found: Inspection) -> list[Problem]:
    """Where the file has gaps, and the spec does not say what to do with them: what the service would say, by the
    place in the spec. Nothing of a matrix that sets data.missing."""
    if found.report is None or MISSING in spec.document(("matrix",)):
        return []
    refuses, said = _missing(spec) == REFUSE, []
    if refuses and found.report.missing:
        said.append(Problem("/data/missing", gaps.of_values(len(found.report.missing))))
    grid = _grid(found) if _task(spec) == "forecast" else None
    if grid is not None and grid.irregular is not None and (refuses or not grid.absent):
        said.append(Problem(*gaps.of_rows(grid.irregular, grid.absent)))
    return said


def for_spec(spec: SpecFile, found: Inspection) -> Inspection:
    """The inspection without the remarks that the spec answers already."""
    if found.report is None:
        return found
    kept = tuple(remark for remark in found.report.remarks if not _is_answered(remark, spec))
    return replace(found, report=replace(found.report, remarks=kept))


def _is_answered(remark: Remark, spec: SpecFile) -> bool:
    fills = _missing(spec) != REFUSE
    if remark.kind == "no_target":
        return _task(spec) in ("forecast", "next_step")
    if remark.kind == "gaps":
        return fills and _task(spec) == "forecast"
    return fills and remark.kind in OF_VALUES


def _missing(spec: SpecFile) -> str:
    return spec.value(("data", "missing")) or (CHOSEN if spec.leaves_network_open() else REFUSE)


def _task(spec: SpecFile) -> str | None:
    return spec.value(("task", "name")) or spec.value(("task",))


def _grid(found: Inspection) -> Grid | None:
    """The time between the steps of all series; None if steps have no times."""
    from loopline.files import grids

    s = found.sequences
    return None if s is None or s.times is None else grids.of_flat(s.times, s.lengths, s.ids)
