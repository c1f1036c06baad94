"""What objects of the client look like at a prompt and in a notebook."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from loopline import Batch, Client, Job, Search

SCRIPT = "<script>alert(1)</script>"
SVG = "{http://www.w3.org/2000/svg}"


def test_a_job_is_one_short_line(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    assert repr(job) == f"Job({job.id!r}, 'tiny', queued, epoch 0 of 3)"
    service.complete(job.id)
    done = client.job("last")
    assert repr(done) == f"Job({job.id!r}, 'tiny', succeeded, epoch 3 of 3, validation_loss 0.4333)"
    assert client.job(job.id) == done


def test_a_notebook_shows_a_job_with_its_curve(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit({**tiny, "name": SCRIPT})
    assert "svg" not in job._repr_html_()
    service.complete(job.id)
    shown = ElementTree.fromstring(client.job(job.id)._repr_html_())  # noqa: S314
    assert shown.find(".//script") is None
    assert shown.findtext("strong") == SCRIPT
    lines = shown.findall(f".//{SVG}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [3, 3]
    picture = shown.find(f"{SVG}svg")
    assert picture is not None
    assert picture.get("aria-label") == f"{SCRIPT}: loss from 1.1 to 0.3333, over epochs 1 to 3"


def test_batches_and_searches_are_one_short_line() -> None:
    batch = Batch("batch_1", "running", name="b", counts={"running": 2, "failed": 0})
    assert repr(batch) == "Batch('batch_1', 'b', running, 2 running)"
    search = Search("search_1", "running", wanted=10, made=3, counts={"running": 3})
    assert repr(search) == "Search('search_1', running, 3 of 10 trials)"
    assert repr(Job("job_1", "failed", reason="diverged")) == "Job('job_1', failed, diverged)"
    for each in (batch, search):
        ElementTree.fromstring(each._repr_html_())  # noqa: S314
