"""What is fit for trying out only does not start in production, and says why without saying the secret."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.settings import Settings
from services.wording import setting_sentences
from tests import forking

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "database_url": "postgresql://loopline:c41f0a9be27d5836@db/loopline",
    "broker_url": "redis://:9b1d2c7750ee4aff@cache:6379/0",
    "host": "0.0.0.0",  # noqa: S104
}


def test_good_settings_are_taken() -> None:
    settings = Settings(production=True, **GOOD)
    assert settings.unfit_for_production() == []
    assert settings.needs_keys


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"auth": "none"}, "LOOPLINE_AUTH=none lets everybody in; set it to keys"),
        ({"database_url": "sqlite:////srv/loopline.db"}, "LOOPLINE_DATABASE_URL is SQLite"),
        ({"database_url": "postgresql://loopline@db/loopline"}, "LOOPLINE_DATABASE_URL has no password"),
        ({"database_url": "postgresql+psycopg://u:p4ss@db/x"}, "of fewer than 12 characters"),
        (
            {"database_url": "postgresql://app:change%2Dme%2D123456789@db/x"},
            "DATABASE_URL has a password that everybody",
        ),
        ({"database_url": "postgresql://u:0123456789ab@[db/x"}, "LOOPLINE_DATABASE_URL cannot be read"),
        ({"broker_url": "redis://cache:6379/0"}, "LOOPLINE_BROKER_URL has no password"),
        ({"broker_url": "redis://:@cache:6379/0"}, "LOOPLINE_BROKER_URL has no password"),
    ],
)
def test_what_is_not_fit_is_refused_with_its_variable_and_the_way_out(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(production=True, **{**GOOD, **changes})
    [sentence] = setting_sentences(refused.value)
    assert sentence.startswith("LOOPLINE_PRODUCTION is set")
    assert told in sentence
    assert sentence.count("\n") == 1
    Settings(production=False, **{**GOOD, **changes})


@pytest.mark.parametrize(
    "password",
    [
        *("loopline", "postgres", "password", "secret", "change-me", "changeme", "redis", "example", "Change_Me!1"),
        *("PASSWORD123456", "mysecretpassword", "app-user-0001", "the-database"),
    ],
)
def test_passwords_that_everybody_knows_are_refused(password: str) -> None:
    url = f"postgresql://app-user:{password}@db/thedatabase"
    [found] = Settings(**{**GOOD, "database_url": url}).unfit_for_production()
    assert "that everybody knows" in found


def test_all_that_is_wrong_is_said_at_once_and_no_secret_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("postgresql://app:hush@db/x\n")
    monkeypatch.setenv("LOOPLINE_PRODUCTION", "true")
    monkeypatch.setenv("LOOPLINE_AUTH", "none")
    monkeypatch.setenv("LOOPLINE_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("LOOPLINE_BROKER_URL", "redis://:hush@cache/0")
    with pytest.raises(ValidationError) as refused:
        Settings()
    [sentence] = setting_sentences(refused.value)
    assert [line.split()[0] for line in sentence.splitlines()[1:]] == [
        *("LOOPLINE_AUTH=none", "LOOPLINE_DATABASE_URL_FILE", "LOOPLINE_BROKER_URL")
    ]
    assert "hush" not in sentence
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "127.8.0.1"}, False),
        ({"host": "0.0.0.0"}, True),  # noqa: S104
        ({"host": "::"}, True),
        ({"host": "loopline.example"}, True),
        ({"auth": "keys"}, True),
        ({"auth": "none", "host": "0.0.0.0"}, False),  # noqa: S104
        ({**GOOD, "host": "127.0.0.1", "production": True}, True),
    ],
)
def test_keys_are_needed_wherever_others_can_reach_it(changes: dict[str, Any], needed: bool) -> None:
    assert Settings(**changes).needs_keys is needed


@pytest.mark.parametrize("text", ["none", "200 per 10 seconds", "1 per second", "1000 per minute", "5 per 2 hours"])
def test_a_rate_is_said_in_words(text: str) -> None:
    assert Settings(rate_limit=text).rate_limit == text


@pytest.mark.parametrize("text", ["", "10", "0 per minute", "10 per fortnight", "10/second; 5/hour", "-1 per hour"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(rate_limit=text)
    assert "LOOPLINE_RATE_LIMIT must be such as `200 per 10 seconds`" in next(setting_sentences(refused.value))


@pytest.mark.parametrize(
    "command", [["-m", "api"], ["-m", "worker.scheduler"], ["-m", "worker.start", "worker.app"]], ids=" ".join
)
def test_no_process_starts_with_a_default_secret(command: list[str], tmp_path: Path) -> None:
    environment = {
        "PATH": "",
        "LOOPLINE_PRODUCTION": "true",
        "LOOPLINE_DATA_DIR": str(tmp_path / "var"),
        "LOOPLINE_DATABASE_URL": "postgresql://loopline:loopline@db/loopline",
        "LOOPLINE_BROKER_URL": "redis://:c41f0a9be27d5836@cache/0",
    }
    done = forking.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "LOOPLINE_DATABASE_URL has a password that everybody knows; make one with" in done.stderr
    assert "loopline:loopline" not in done.stderr
    assert not (tmp_path / "var").exists()
