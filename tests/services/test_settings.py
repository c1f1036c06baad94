"""Settings: the environment, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.errors import SpecInvalid
from services.settings import Settings
from services.training.spec import parse
from services.wording import setting_sentences


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("LOOPLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_everything_has_a_default(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.data_dir == tmp_path / "var"
    assert settings.database_url == f"sqlite:///{tmp_path}/var/loopline.db"
    assert settings.broker_url == "redis://127.0.0.1:6379/0"
    assert settings.queue_names == ("default",)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPLINE_DATA_DIR", "elsewhere")
    monkeypatch.setenv("LOOPLINE_QUEUES", "night,default,night")
    settings = Settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/elsewhere/loopline.db"
    assert settings.queue_names == ("night", "default")


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPLINE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LOOPLINE_BLOBS_URL", "")
    monkeypatch.setenv("LOOPLINE_PORT", "")
    assert (Settings().blobs_url, Settings().port) == (None, 8080)


def test_secrets_come_from_files_and_stay_out_of_the_repr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("postgresql://me:hush@db/loopline\n")
    monkeypatch.setenv("LOOPLINE_DATABASE_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("LOOPLINE_BROKER_URL", "redis://:hush@cache/0")
    settings = Settings()
    assert settings.database_url == "postgresql://me:hush@db/loopline"
    assert "hush" not in repr(settings)


def test_the_keys_of_the_object_store_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings().s3_keys is None
    for name, secret in (("ACCESS", "me"), ("SECRET", "hush")):
        (tmp_path / name).write_text(f"{secret}\n")
        monkeypatch.setenv(f"LOOPLINE_S3_{name}_KEY_FILE", str(tmp_path / name))
    assert Settings().s3_keys == ("me", "hush")
    assert "hush" not in repr(Settings())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL_FILE", "missing", "cannot read missing"),
        ("RENEW_SECONDS", "40", "at most half"),
        ("PORT", "70000", "port"),
        ("QUEUES", "a, b", "queues"),
        ("QUEUES", "default,gpu.large", "queues"),
        ("QUEUES", "a" * 64, "queues"),
        ("BLOBS_URL", "/srv/blobs", "must look like s3://bucket"),
        ("BLOBS_URL", "s3:///prefix", "must look like s3://bucket"),
        ("BLOBS_URL", "s3://key:hush@bucket/prefix", "LOOPLINE_S3_SECRET_KEY_FILE"),
        ("S3_ENDPOINT_URL", "minio:9000", "LOOPLINE_S3_ENDPOINT_URL must look like https://host"),
        ("S3_ACCESS_KEY_FILE", __file__, "or neither"),
    ],
)
def test_a_bad_value_is_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"LOOPLINE_{name}", value)
    with pytest.raises(ValidationError, match=words):
        Settings()


@pytest.mark.parametrize("name", ["default", "gpu-large_2", "7", "a" * 63, "gpu.large", "-a", "A", "", "a" * 64, "a b"])
def test_a_worker_listens_to_the_queues_that_a_spec_may_name_and_to_no_others(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def taken(build: Callable[[], object]) -> bool:
        try:
            build()
        except (ValidationError, SpecInvalid):
            return False
        return True

    monkeypatch.setenv("LOOPLINE_QUEUES", f"first,{name}")
    document = {"architecture": {"cell": "gru"}, "data": {"synthetic": {}}, "queue": name}
    assert taken(Settings) == taken(lambda: parse(document))


def test_an_address_and_a_file_of_it_are_one_too_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sqlite:///x")
    monkeypatch.setenv("LOOPLINE_DATABASE_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", "sqlite:///y")
    with pytest.raises(ValidationError, match="not both"):
        Settings()


def test_every_setting_has_help() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "70000", 'LOOPLINE_PORT must be at most 65535; got "70000".'),
        ("PORT", "here", 'LOOPLINE_PORT must be a whole number; got "here".'),
        ("LEASE_SECONDS", "0", 'LOOPLINE_LEASE_SECONDS must be greater than 0; got "0".'),
        ("LOG_LEVEL", "loud", 'LOOPLINE_LOG_LEVEL must be one of debug, info, warning, error; got "loud".'),
        (
            "GPUS",
            "0;1",
            "LOOPLINE_GPUS must be `all`, or numbers or ids as `nvidia-smi -L` lists them, with commas between; "
            'got "0;1".',
        ),
        ("BLOBS_URL", "/srv", "LOOPLINE_BLOBS_URL: an object store must look like s3://bucket or s3://bucket/prefix."),
    ],
)
def test_a_sentence_names_the_variable_and_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"LOOPLINE_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert next(setting_sentences(refused.value)) == sentence
