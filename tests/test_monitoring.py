"""What docker/monitoring asks Prometheus for is counted, what it raises is documented, and its files are valid."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import metrics

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docker" / "monitoring"
PAGE = (ROOT / "docs" / "metrics.md").read_text()
METRICS = {metric.name: metric for metric in metrics.every()}
GIVEN = {"instance", "job", "pid", "le"}
"""Labels that every series may have by Prometheus' hand or its library's."""

MONITORING = yaml.safe_load((FOLDER / "rules.yml").read_text())
ALERTS = {rule["alert"]: rule for group in MONITORING["groups"] for rule in group["rules"]}
BOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "boards" / "loopline.json").read_text())


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALERTS.values())
    yield from (target["expr"] for panel in BOARD["panels"] for target in panel["targets"])
    yield from (variable["definition"] for variable in BOARD["templating"]["list"])


def metric_of(series: str) -> metrics.Metric:
    """The metric of a series' name; of a histogram only its parts have series."""
    if found := METRICS.get(series):
        assert found.kind != "histogram", f"{series} has no series of its own"
        return found
    name, _, part = series.rpartition("_")
    assert name in METRICS, f"services/metrics.py has no {series}"
    assert (METRICS[name].kind, part in {"bucket", "sum", "count"}) == ("histogram", True), series
    return METRICS[name]


def test_every_metric_that_is_asked_for_exists_with_its_labels() -> None:
    asked = 0
    for expression in expressions():
        for series, _, labels in re.findall(r"\b(loopline_\w+)(\{([^}]*)\})?", expression):
            known = {*metric_of(series).labels, *GIVEN}
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", labels)) <= known, expression
            asked += 1
        for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
            labels_of_all = {label for metric in METRICS.values() for label in metric.labels} | GIVEN
            assert set(grouping.split(", ")) <= labels_of_all, expression
    assert asked > 40


def test_every_metric_is_asked_for_by_the_board_or_the_rules() -> None:
    """What nobody looks at need not be counted."""
    named = {metric_of(series).name for text in expressions() for series in re.findall(r"\bloopline_\w+", text)}
    assert set(METRICS) - named == set()


def test_what_must_be_seen_has_its_panel() -> None:
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(set(titles)) == len(titles)
    wanted = {
        "Queue depth",
        "Wait",
        "Runs by outcome",
        "GPU memory",
        "Failures by reason",
        "Loss of the runs under way",
    }
    assert wanted <= set(titles)


def test_no_two_panels_of_the_board_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_says_what_to_do_and_is_documented() -> None:
    documented = re.findall(r"^\| `(Loopline\w+)` \| (page|ticket) \|", PAGE, re.MULTILINE)
    assert documented == [(name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]
    assert all(set(rule["annotations"]) == {"summary", "action"} for rule in ALERTS.values())


def test_the_datasource_of_every_panel_is_the_one_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())
    [uid] = [source["uid"] for source in provisioned["datasources"]]
    assert {panel["datasource"]["uid"] for panel in BOARD["panels"]} == {uid}


def test_prometheus_scrapes_each_kind_of_process_at_one_port() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["dns_sd_configs"] for job in config["scrape_configs"]}
    assert jobs == {
        name: [{"names": [name], "type": "A", "port": 9464, "refresh_interval": "15s"}]
        for name in ("api", "worker", "scheduler")
    }


@pytest.mark.parametrize("check", ["check config prometheus.yml", "test rules rules_test.yml"])
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_the_configuration_and_its_rules_do_what_they_should(check: str) -> None:
    done = subprocess.run(["promtool", *check.split()], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
