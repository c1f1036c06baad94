"""What is said of missing values and rows to a job that does not say what to do with them."""

from __future__ import annotations

from loopline.files.counting import counted


def of_values(columns: int) -> str:
    """What is wrong with `data.missing: refuse` if this many columns have missing values."""
    what = f"{counted(columns, 'feature')} {'has' if columns == 1 else 'have'}"
    return (
        f"{what} missing values: set it to forward, mean or linear to fill them, or to drop to leave out the "
        "sequences that have any"
    )


def of_rows(irregular: str, absent: int) -> tuple[str, str]:
    """The field and what is wrong with it if the steps of series are not equal (`Grid.irregular`), and the job is a
    forecast with `data.missing: refuse`. `absent`: the rows that can be added, 0 if that would not make them equal."""
    unequal = f"a forecast needs equal steps in time, and {irregular}"
    if not absent:
        return "/task", f"{unequal}: bring the rows to equal steps, or remove those in between"
    rows = "the missing row" if absent == 1 else f"the {absent:,} missing rows"
    return "/data/missing", (
        f"{unequal}: set it to forward to add {rows} and repeat the value before there, to mean, or to drop to leave "
        "out the windows with a gap"
    )
