"""`loopline compare`: jobs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from loopline import errors
from loopline.cli.shared import AsCsv, connected, print_json

Sort = Annotated[
    str | None, typer.Option("--sort", metavar="METRIC", help="Sort by a metric, or a field that differs; best first.")
]
Top = Annotated[int | None, typer.Option("--top", metavar="COUNT", min=1, help="Show only the first of them.")]


def compare(
    ctx: typer.Context,
    job_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of jobs, or of batches and searches for all their jobs.")
    ],
    sort: Sort = None,
    top: Top = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead, for scripts.")] = False,
    csv: AsCsv = None,
) -> None:
    """Compare jobs: how their specs differ, and what they reached.

    The best job comes first. The table shows the fields in which the specs differ and the metrics of one part of the
    data; --csv has all metrics.

    Example: loopline compare batch_01m8534rdzpk2b2nwmwmj4v6dg --sort accuracy --top 5
    """
    with connected(ctx) as client:
        found = client.jobs.compare(*job_ids, sort=sort, top=top)
    if not found.jobs:
        raise errors.NotFound("There is no job to compare: the batch or search has none yet.")
    if csv is not None:
        from loopline.cli import export

        return export.save(found.rows(), csv)
    if as_json:
        return print_json(found.rows())
    from loopline.view import comparisons, table

    return table.console().print(comparisons.comparison(found))
