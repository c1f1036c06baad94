"""From the files that people have to a trained model: each format through the command, the API and a real worker."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from loopline import BadRequest, Client

from tests import forking
from tests.system.conftest import Service, clean

ROOT = Path(__file__).parent.parent.parent
WALKS = [
    (f"w{number:02}", number % 2, [[math.sin(step * (0.3 + number % 2)), step / 10] for step in range(8 + number % 5)])
    for number in range(40)
]
"""(id, class, steps): the frequency of the first feature is the class."""
NAMES = ("walk", "run")
SPEC = {
    "architecture": {"cell": "gru", "hidden_size": 16, "pooling": "mean"},
    "training": {"epochs": 12, "batch_size": 8, "optimizer": {"lr": 0.02}},
    "data": {"split": {"test": 0.2}},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    service = Service(tmp_path_factory.mktemp("files"))
    try:
        yield service.url()
        assert service.stop() == 0
    finally:
        service.end()


def rows() -> Iterator[dict[str, Any]]:
    for name, kind, steps in WALKS:
        for place, (x, y) in enumerate(steps):
            yield {"walk": name, "second": place, "acc_x": x, "acc_y": y, "activity": NAMES[kind]}


def as_csv(path: Path, found: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def long_csv(folder: Path) -> Path:
    shuffled = [*rows()]
    random.Random(7).shuffle(shuffled)
    return as_csv(folder / "long.csv", shuffled)


def wide_csv_gz(folder: Path) -> Path:
    longest = max(len(steps) for *_, steps in WALKS)
    found = []
    for name, kind, steps in WALKS:
        row: dict[str, Any] = {"id": name}
        for place in range(longest):
            row[f"acc_x_{place}"] = steps[place][0] if place < len(steps) else ""
        for place in range(longest):
            row[f"acc_y_{place}"] = steps[place][1] if place < len(steps) else ""
        found.append({**row, "activity": NAMES[kind]})
    path = as_csv(folder / "wide.csv", found)
    packed = folder / "wide.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def parquet(folder: Path) -> Path:
    pa.parquet.write_table(pa.Table.from_pylist([*rows()]), folder / "table.parquet")
    return folder / "table.parquet"


def jsonl(folder: Path) -> Path:
    lines = [
        {"id": name, "acc_x": [x for x, _ in steps], "acc_y": [y for _, y in steps], "activity": NAMES[kind]}
        for name, kind, steps in WALKS
    ]
    path = folder / "lines.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def ts(folder: Path) -> Path:
    head = ["@problemName walks", "@timeStamps false", "@univariate false", "@dimensions 2", "@equalLength false"]
    lines = [*head, f"@classLabel true {' '.join(NAMES)}", "@data"]
    for _, kind, steps in WALKS:
        dimensions = (",".join(str(step[place]) for step in steps) for place in (0, 1))
        lines.append(":".join((*dimensions, NAMES[kind])))
    path = folder / "archive.ts"
    path.write_text("\n".join(lines))
    return path


def recordings(folder: Path) -> Path:
    for name, kind, steps in WALKS:
        below = folder / "recordings" / NAMES[kind]
        below.mkdir(parents=True, exist_ok=True)
        as_csv(below / f"{name}.csv", [{"acc_x": x, "acc_y": y} for x, y in steps])
    return folder / "recordings"


FILES: list[Callable[[Path], Path]] = [long_csv, wide_csv_gz, parquet, jsonl, ts, recordings]


def loopline(url: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return forking.run(
        [sys.executable, "-m", "loopline.cli", *words],
        cwd=folder,
        env=clean({"LOOPLINE_URL": url, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "client")))}),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
def test_one_command_goes_from_a_file_to_a_model(url: str, tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    data = {**SPEC["data"], "dataset": f"./{path.name}"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**SPEC, "data": data}))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["status"] == "succeeded"
    with Client(url) as client:
        dataset = client.datasets.get(job["dataset"]["id"])
        result = client.job(job["id"]).result
    assert (dataset.samples, dataset.features, dataset.min_length, dataset.max_length) == (40, 2, 8, 12)
    assert dataset.classes == sorted(NAMES)
    assert result.metrics["test_accuracy"] is not None
    assert result.metrics["test_accuracy"] >= 0.9


OTHER_TASKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "regression": ({"group": "walk", "order": "second", "target": "height"}, "values", "test_r2"),
    "tagging": ({"group": "walk", "order": "second", "target": "step"}, "tags", "test_accuracy"),
    "multilabel": (
        {"group": "walk", "order": "second", "target": ["fast", "long"]},
        "multilabel",
        "test_label_accuracy",
    ),
}
"""Of each task: what the columns are, the target that the service finds, and a metric of the result."""


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_one_command_goes_from_a_file_to_every_other_task(url: str, tmp_path: Path, task: str) -> None:
    lengths = {name: len(steps) for name, _, steps in WALKS}
    found = [
        {key: row[key] for key in ("walk", "second", "acc_x", "acc_y")}
        | {"height": 1.5 + 0.1 * lengths[row["walk"]]}
        | {"step": "up" if row["acc_x"] > 0 else "down"}
        | {"fast": int(row["activity"] == "run"), "long": int(lengths[row["walk"]] > 10)}
        for row in rows()
    ]
    schema, target, metric = OTHER_TASKS[task]
    kept = {"walk", "second", "acc_x", "acc_y", *([schema["target"]] if task != "multilabel" else schema["target"])}
    as_csv(tmp_path / f"{task}.csv", [{key: row[key] for key in row if key in kept} for row in found])
    data = {"dataset": f"{task}.csv", "schema": schema, "split": {"test": 0.2}}
    cell = {"architecture": {"cell": "gru", "hidden_size": 16}}  # with an answer for each step where one is needed
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**SPEC, **cell, "data": data}))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        job = client.job(json.loads(done.stdout)["id"])
        assert client.datasets.get(job.raw["dataset"]["id"]).target == target
    assert job.result is not None
    assert job.result.metrics[metric] is not None
    assert job.result.baseline is not None


def reviews(folder: Path) -> Path:
    """Lines of text, each with its label after a tab."""
    drawn = random.Random(5)
    said = {"good": ("great", "Lovely", "warm"), "bad": ("cold", "awful", "Poor")}
    common = "the room was quite and we found it very there".split()  # noqa: SIM905
    lines = []
    for number in range(80):
        label = ("good", "bad")[number % 2]
        words = [drawn.choice(common) for _ in range(drawn.randrange(4, 15))]
        words.insert(drawn.randrange(len(words)), drawn.choice(said[label]))
        lines.append(f"{' '.join(words)}.\t{label}\n")
    path = folder / "reviews.txt"
    path.write_text("".join(lines))
    return path


def test_one_command_goes_from_lines_of_text_to_a_model(url: str, tmp_path: Path) -> None:
    path = reviews(tmp_path)
    spec = {**SPEC, "data": {**SPEC["data"], "dataset": f"./{path.name}"}}
    spec["architecture"] = {"cell": "gru", "hidden_size": 16, "pooling": "max"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["status"] == "succeeded"
    assert job["spec"]["data"]["text"]["by"] == "words"
    with Client(url) as client:
        dataset = client.datasets.get(job["dataset"]["id"])
        result = client.job(job["id"]).result
    assert (dataset.samples, dataset.features, dataset.format) == (80, 1, "text")
    assert dataset.max_length == max(len(line.split("\t")[0]) for line in path.read_text().splitlines())
    assert result.metrics["test_accuracy"] is not None
    assert result.metrics["test_accuracy"] >= 0.9
    refused = loopline(url, tmp_path, "submit", "job.yaml", "--set", "data.differences=append")
    assert refused.returncode == 2
    assert "here are texts: leave it out" in " ".join(refused.stderr.split())


def test_one_command_goes_from_a_table_to_a_model_without_a_spec(url: str, tmp_path: Path) -> None:
    as_csv(tmp_path / "walking.csv", [*rows()])
    done = loopline(url, tmp_path, "train", "walking.csv", "--target", "activity", "--group", "walk")
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        job = client.job("last")
    assert job.result is not None
    assert job.result.metrics["train_accuracy"] == 1.0
    assert f"Ask it about a file with: loopline predict {job.id} FILE" in done.stderr
    spec = job.raw["spec"]
    assert (spec["architecture"]["pooling"], spec["training"]["keep"], spec["data"]["split"]["folds"]) == (
        "max",
        "last",
        4,
    )


def test_one_command_searches_for_the_best_model_of_a_table(url: str, tmp_path: Path) -> None:
    as_csv(tmp_path / "strolls.csv", [*rows()])
    few = ("--set", "training.epochs=4", "--set", "data.split.test=0.2", "--set", "data.split.validation=0.3")
    columns = ("--target", "activity", "--group", "walk")
    done = loopline(url, tmp_path, "train", "strolls.csv", *columns, "--minutes", "0.1", *few)
    assert done.returncode == 0, done.stderr
    assert "The final model is job_" in done.stdout
    with Client(url) as client:
        [search] = client.searches.list()
        search = search.refresh()
        model = search.model_job()
        assert search.final is not None
        assert model is not None
        assert model.id == search.final.job_id
        assert model.result is not None
        assert "test_accuracy" in model.result.metrics
        best = search.best_job()
        assert best is not None
        assert best.result is not None
        assert not any(name.startswith("test_") for name in best.result.metrics)
        assert search.trials[0].choices == search.raw["settings"]["first"]


def test_one_command_goes_from_a_text_to_a_model_that_writes(url: str, tmp_path: Path) -> None:
    drawn = random.Random(6)
    words = "the cat sat on a mat and saw the dog run to a hat".split()  # noqa: SIM905
    lines = [" ".join(drawn.choice(words) for _ in range(8)).capitalize() + "." for _ in range(80)]
    (tmp_path / "prose.txt").write_text("\n\n".join(lines))
    spec = {
        "task": "next_step",
        "architecture": {"cell": "gru", "hidden_size": 32},
        "training": {"epochs": 15, "batch_size": 8, "bptt_steps": 32, "optimizer": {"lr": 0.02}},
        "data": {"dataset": "./prose.txt"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--watch")
    assert done.returncode == 0, done.stderr
    assert "Text that the model wrote (temperature 0.8, seed 0):" in done.stdout
    with Client(url) as client:
        job = next(iter(client.jobs.list()))
        dataset = client.datasets.get(job.raw["dataset"]["id"])
        job.download(tmp_path / "model")
    assert (dataset.samples, dataset.target, dataset.format) == (159, "text", "text")
    assert job.result is not None
    assert job.result.baseline is not None
    assert job.result.baseline["is_beaten"], job.result
    assert job.result.metrics["test_perplexity"] < 4
    assert job.result.sample is not None
    text = job.result.sample["text"]
    assert sum(word.lower().strip(".") in words for word in text.split()) > 0.5 * len(text.split())
    assert json.loads((tmp_path / "model" / "model.json").read_text())["sample"] == job.result.sample
    assert text.split("\n")[0].strip() in done.stdout
    listed = loopline(url, tmp_path, "datasets", "list")
    assert "without labels" in " ".join(listed.stdout.split())
    refused = loopline(url, tmp_path, "submit", "job.yaml", "--set", "task=classification")
    assert refused.returncode == 2
    assert "set task to next_step" in " ".join(refused.stderr.split())


def hourly(folder: Path, *, without: int | None = None) -> Path:
    """The load of two towns: a wave of a day, and some noise."""
    noise = random.Random(3)
    found = [
        {
            "hour": f"2024-03-{1 + hour // 24:02}T{hour % 24:02}:00:00Z",
            "town": town,
            "load_mw": round(50 + 20 * math.sin(hour * math.pi / 12) + noise.gauss(0, 3), 2),
            "is_holiday": hour // 24 % 7 == 3,
        }
        for town in ("north", "south")
        for hour in range(30 * 24)
        if hour != without
    ]
    return as_csv(folder / "demand.csv", found)


FORECAST = {
    "task": {"name": "forecast", "horizon": 24, "lookback": 48, "stride": 4},
    "architecture": {"cell": "gru", "hidden_size": 16},
    "training": {"epochs": 8, "batch_size": 32, "optimizer": {"lr": 0.01}},
    "data": {"dataset": "./demand.csv", "schema": {"target": "load_mw", "known_future": ["is_holiday"]}},
}


def test_one_command_goes_from_hours_to_a_forecast_that_beats_the_day_before(url: str, tmp_path: Path) -> None:
    hourly(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(FORECAST))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["status"] == "succeeded"
    assert job["spec"]["task"]["season"] == [24, 168]
    with Client(url) as client:
        dataset = client.datasets.get(job["dataset"]["id"])
        result = client.job(job["id"]).result
    assert (dataset.target, dataset.samples, dataset.features) == ("series", 2, 2)
    assert result.baseline is not None
    assert result.baseline["is_beaten"]
    assert result.baseline["metric"] == "test_mase"
    assert len(result.baseline["others"]) == 2
    assert result.details is not None
    assert len(result.details["test"]["horizon"]["mae"]) == 24
    shown = loopline(url, tmp_path, "show", job["id"])
    assert "before: beaten" in shown.stdout


def test_the_commands_of_the_examples_run_as_documented(url: str) -> None:
    """As examples/README.md shows them, but for one epoch, and without anybody who watches. The search is in
    test_searching.py, with fewer trials."""
    page = (ROOT / "examples" / "README.md").read_text()
    commands = re.findall(r"^    loopline ((?!search ).+ (?:data|examples)/.+)$", page, re.MULTILINE)
    submitted = [command for command in commands if command.startswith("submit ")]
    specs = {path.name for path in (ROOT / "examples").glob("*.yaml")} - {"search.yaml"}
    assert len(submitted) == len(specs)
    for command in commands:
        words = command.replace("--watch", "--wait --set training.epochs=1").split()
        done = loopline(url, ROOT, *words)
        assert done.returncode == 0, done.stderr
    with Client(url) as client:
        trained = {job.name for job in client.jobs.list() if job.status == "succeeded"}
    assert {"vowels", "weather", "sea", "names"} <= trained


def test_a_missing_hour_is_named_before_anything_is_trained(url: str, tmp_path: Path) -> None:
    hourly(tmp_path, without=100)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(FORECAST))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--wait")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "the step of north from 2024-03-05 03:00:00 to 2024-03-05 05:00:00 is 2 hours, and most are 1 hour" in told


def test_a_table_in_memory_is_uploaded_as_it_is(url: str) -> None:
    with Client(url) as client:
        made = client.upload(pa.Table.from_pylist([*rows()]), "from-memory")
        again = client.upload(pa.Table.from_pylist([*rows()]), "from-memory")
        arrays = client.upload({"x": np.zeros((4, 3, 1), np.float32), "y": np.array([0, 1, 0, 1])}, "arrays")
    assert (made.samples, made.target, made.format) == (40, "classes", "parquet")
    assert again.id == made.id
    assert (arrays.samples, arrays.format) == (4, "npz")


def test_a_later_version_is_read_as_the_first_one_was(url: str, tmp_path: Path) -> None:
    path = long_csv(tmp_path)
    with Client(url) as client:
        client.upload(path, "kept", schema={"features": ["acc_x"], "target": "activity"})
        path.write_text(path.read_text().replace(",0.0,0.0,", ",0.5,0.0,"))
        second = client.upload(path, "kept")
        assert (second.version, second.features) == (2, 1)
        path.write_text(path.read_text().replace("acc_x", "acceleration"))
        with pytest.raises(BadRequest) as caught:
            client.upload(path, "kept")
    assert "there is no column `acc_x`" in str(caught.value)
    assert "It is read as kept@2 was, which has the same name" in str(caught.value)


def test_a_bad_line_is_named_by_its_number_and_nothing_is_kept(url: str, tmp_path: Path) -> None:
    path = long_csv(tmp_path)
    lines = path.read_text().splitlines()
    lines[99] = lines[99].replace(",", ";")
    path.write_text("\n".join(lines))
    done = loopline(url, tmp_path, "datasets", "upload", "long.csv", "--name", "bad")
    assert done.returncode == 2
    assert "line 100" in done.stderr
    with Client(url) as client:
        assert [dataset for dataset in client.datasets.list() if dataset.name == "bad"] == []


def test_a_spec_that_says_something_else_of_the_columns_is_refused(url: str, tmp_path: Path) -> None:
    with Client(url) as client:
        dataset = client.upload(long_csv(tmp_path), "columns")
        with pytest.raises(BadRequest) as caught:
            client.submit({**SPEC, "data": {"dataset": dataset.reference, "schema": {"target": "acc_y"}}})
    assert "has activity here" in str(caught.value)


def test_a_refused_job_leaves_no_data_set_behind(url: str, tmp_path: Path) -> None:
    """Otherwise its columns, which may be what was wrong, would hold for the next version too. What was there before
    stays."""
    path = long_csv(tmp_path).rename(tmp_path / "refused.csv")
    wrong = {**SPEC, "task": "classification", "data": {"dataset": str(path), "schema": {"target": "acc_x"}}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(wrong))
    with Client(url) as client:
        for _ in range(2):
            done = loopline(url, tmp_path, "submit", "job.yaml")
            assert done.returncode == 2
            assert re.search(
                r"Removed refused@\d, which was uploaded for this job, because the job was refused", done.stderr
            )
            with pytest.raises(BadRequest):
                client.submit(wrong)
            assert [one for one in client.datasets.list() if one.name == "refused"] == []
        before = client.upload(path, schema={"target": "acc_x"})
        with pytest.raises(BadRequest):
            client.submit(wrong)
        assert client.datasets.get("refused").id == before.id
        client.datasets.delete(before.reference)


def test_a_column_that_a_spec_misspells_is_named_where_it_stands(url: str, tmp_path: Path) -> None:
    wrong = {**SPEC, "data": {"dataset": str(long_csv(tmp_path)), "schema": {"layout": "longer"}}}
    with Client(url) as client, pytest.raises(BadRequest) as caught:
        client.submit(wrong)
    assert [problem.pointer for problem in caught.value.problems] == ["/data/schema/layout"]


def test_a_schedule_retrains_on_tables_that_come_through_the_inbox(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    """The columns that the first table was read with hold for the next one, although its columns stand in another
    order."""
    inbox = tmp_path / "inbox" / "default" / "walks"
    inbox.mkdir(parents=True)
    nights = {"monday": 24, "tuesday": 40}
    service = start(tmp_path / "var", LOOPLINE_INBOX=str(tmp_path / "inbox"), LOOPLINE_RECONCILE_SECONDS="1")
    url = service.url()
    spec = {**SPEC, "data": {"dataset": "walks", "split": {"method": "content", "validation": 0.1, "test": 0.3}}}
    spec["retrain"] = {"model": "walks", "promote": "production", "gate": {"metric": "accuracy"}}
    schedule = {"name": "nightly", "cron": "0 3 1 1 *", "submit": spec}
    (tmp_path / "schedule.yaml").write_text(yaml.safe_dump(schedule))
    with Client(url) as client:
        for version, (night, count) in enumerate(nights.items(), 1):
            found = [row for row in rows() if int(row["walk"][1:]) < count]
            if version == 2:
                found = [dict(reversed(row.items())) for row in found]
            as_csv(inbox / f"{night}.part", found).rename(inbox / f"{night}.csv")
            deadline = time.monotonic() + 60
            while not [one for one in client.datasets.list() if one.version == version]:
                assert time.monotonic() < deadline, service.said
                time.sleep(0.2)
            if version == 1:
                assert loopline(url, tmp_path, "schedules", "set", "schedule.yaml").returncode == 0
            done = loopline(url, tmp_path, "schedules", "run", "nightly", "--wait")
            assert done.returncode == 0, done.stderr
            trained = client.job("last")
            assert client.datasets.get(trained.raw["dataset"]["id"]).version == version
            assert trained.status == "succeeded"
        newest = client.datasets.get("walks")
        assert (newest.samples, newest.schema["group"], newest.schema["order"]) == (40, ["walk"], "second")
        assert [model.version for model in client.models.versions("walks")] == [2, 1]
