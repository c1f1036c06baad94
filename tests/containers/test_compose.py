"""compose.yaml says the same as the code."""

from __future__ import annotations

import yaml

from services.settings import Settings
from tests.containers.documents import ROOT

OF_THE_CONTAINERS = {
    *("data_dir", "database_url", "broker_url", "host", "port"),  # in the image, or by a file of the secrets
    *("auth", "cpu_workers", "device", "gpus", "queues"),  # of one service
}


def test_every_setting_reaches_the_containers_or_is_their_own() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    passed_on = {name.removeprefix("LOOPLINE_").lower() for name in compose["x-environment"]}
    assert passed_on == set(Settings.model_fields) - OF_THE_CONTAINERS


def test_one_service_builds_each_image() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    built = [service["image"] for service in compose["services"].values() if "build" in service]
    assert len(built) == len(set(built))
    named = {service["image"] for service in compose["services"].values()}
    assert {image for image in named if image.startswith("loopline-")} == set(built)
