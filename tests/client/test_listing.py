"""Lists of the service: they page by themselves, and are lists to Python, to data frames and to notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from loopline import Batch, BatchJob, Client, Epoch, Job, Key, NotFound, ServiceUnreachable, tables
from loopline.listing import Listing


class Counted:
    """Numbers, and how many of them were asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, 0

    def __iter__(self) -> Any:
        for number in range(self.count):
            self.asked += 1
            yield number


@pytest.fixture
def ten() -> Counted:
    return Counted(10)


@pytest.mark.parametrize(
    ("place", "expected", "asked"),
    [
        (0, 0, 1),
        (3, 3, 4),
        (-1, 9, 10),
        (slice(2), [0, 1], 2),
        (slice(1, 4), [1, 2, 3], 4),
        (slice(0), [], 0),
        (slice(8, None), [8, 9], 10),
        (slice(-2, 9), [8], 10),
        (slice(None, None, -5), [9, 4], 10),
        (slice(5, 2, -1), [5, 4, 3], 10),
    ],
)
def test_only_what_is_looked_at_is_requested(ten: Counted, place: Any, expected: Any, asked: int) -> None:
    assert Listing(ten.__iter__)[place] == expected
    assert ten.asked == asked


def test_a_list_is_read_once_however_often_it_is_looked_at(ten: Counted) -> None:
    found = Listing(ten.__iter__)
    assert bool(found)
    assert ten.asked == 1
    first, again = iter(found), iter(found)
    assert [next(first), next(first), next(again)] == [0, 1, 0]
    assert (len(found), list(found), 7 in found, found.index(7)) == (10, list(range(10)), True, 7)
    assert ten.asked == 10
    assert not Listing(lambda: iter([]))
    with pytest.raises(IndexError):
        found[10]


@pytest.mark.parametrize("error", [ServiceUnreachable("gone"), KeyboardInterrupt()], ids=["unreachable", "Ctrl-C"])
def test_a_list_that_failed_once_is_read_from_its_beginning(error: BaseException) -> None:
    failing = [error]

    def entries() -> Iterator[int]:
        yield from range(5)
        if failing:
            raise failing.pop()
        yield from range(5, 10)

    found = Listing(entries)
    begun = iter(found)
    assert [next(begun), next(begun)] == [0, 1]
    with pytest.raises(type(error)):
        len(found)
    assert next(begun) == 2
    assert (len(found), found[:]) == (10, list(range(10)))


def test_threads_share_a_list() -> None:
    others: list[Future[int]] = []

    def entries() -> Iterator[int]:
        yield 0
        others.append(pool.submit(len, found))
        wait(others, 0.05)  # the other thread comes now, or is late, and then this shows nothing
        yield 1

    with ThreadPoolExecutor(1) as pool:
        found = Listing(entries)
        assert len(found) == 2
        assert others[0].result() == 2


def test_lists_of_jobs_page_by_themselves(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    made = [client.submit(tiny).id for _ in range(5)]
    found = client.jobs.list(page_size=2)
    service.requests.clear()
    assert found[0].id == made[-1]
    assert len(service.requests) == 1
    assert [job.id for job in found] == made[::-1]
    assert (len(found), found[-1].id, len(service.requests)) == (5, made[0], 3)
    assert repr(found).count("\n") == 4
    assert repr(found).startswith("[Job(")
    assert client.jobs.list(status="failed")[:] == []
    service.complete(made[0])
    epochs = client.job(made[0]).epochs()
    assert (len(epochs), epochs[-1].epoch) == (3, 3)


def test_a_list_of_jobs_is_a_data_frame(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit({**tiny, "tags": {"team": "speech"}})
    service.complete(job.id)
    found = client.jobs.list().to_frame()
    assert isinstance(found, pd.DataFrame)
    [row] = found.to_dict("records")
    assert (row["id"], row["status"], row["epoch"], row["best.metric"]) == (job.id, "succeeded", 3, "validation_loss")
    assert (row["test_accuracy"], row["tags.team"], row["created_at"]) == (0.75, "speech", job.created_at)
    assert not {"raw", "spec", "_http", "progress", "result"} & {*found.columns}


def test_rows_are_flat() -> None:
    job = BatchJob("job_1", "succeeded", cell={"training.lr": 0.1}, metrics={"test_accuracy": 0.5}, warnings=["a"])
    row = tables.row(job)
    assert (row["training.lr"], row["test_accuracy"], row["warnings"], row["best"]) == (0.1, 0.5, "a", None)
    batch = Batch("b", "succeeded", counts={"failed": 1}, varied=("x", "y"), jobs=(job,), created_at=datetime.now(UTC))
    assert "jobs" not in tables.row(batch)
    assert (tables.row(batch)["counts.failed"], tables.row(batch)["varied"]) == (1, "x y")
    assert tables.row(Key("key_1", scopes=["read", "submit"], key="secret"))["scopes"] == "read submit"


def test_a_notebook_shows_a_table_with_texts_as_text() -> None:
    many = Listing(lambda: iter([Job(f"job_{number}", "failed", name="<b>") for number in range(30)]))
    shown = ElementTree.fromstring(many._repr_html_())  # noqa: S314
    assert [head.text for head in shown.iter("th")] == ["id", "status", "kind", "name", "queue"]
    assert len(list(shown.iter("tr"))) == 21
    assert [cell.text for cell in shown.iter("td")][:4] == ["job_0", "failed", "train", "<b>"]
    assert "and more" in many._repr_html_()
    assert repr(many).endswith(",\n ...]")
    assert (
        Listing(lambda: iter([Epoch(0)]))._repr_html_()
        == Listing(lambda: iter([]))._repr_html_()
        == "<div>nothing</div>"
    )


def test_the_newest_of_each_is_last(client: Client, tiny: dict[str, Any]) -> None:
    for noun in (client.jobs, client.batches, client.searches):
        with pytest.raises(NotFound, match=r"There are no \w+ yet"):
            noun.get("last")
    job, batch = client.submit(tiny), client.batches.submit([tiny, tiny])
    search = {**tiny, "search": {"space": {"training.optimizer.lr": [1e-3, 1e-2]}, "trials": 2}}
    made = client.searches.submit(search)
    assert client.jobs.list()[-1] == client.job(job.id)
    assert client.batches.get("last").id == batch.id
    assert client.searches.get("last").id == made.id
