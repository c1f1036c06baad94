"""Every environment variable of the service: its name, default and help.

Settings are built once at the edge of a process (`Settings()`) and passed down; nothing else reads `os.environ`.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services import production


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _readable(path: Path) -> Path:
    _secret(path)
    return path


AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
SecretFile = Annotated[Path, AfterValidator(_readable)]


def _store(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("an object store must look like s3://bucket or s3://bucket/prefix")
    if "@" in parts.netloc or ":" in parts.netloc:
        raise ValueError(
            "an object store is a bucket and a prefix only: the server goes into LOOPLINE_S3_ENDPOINT_URL, keys "
            "into the files that LOOPLINE_S3_ACCESS_KEY_FILE and LOOPLINE_S3_SECRET_KEY_FILE name"
        )
    return url


def _inbox(place: str) -> str:
    """A folder, or a place in an object store."""
    return _store(place) if place.startswith("s3:") else str(Path(place).expanduser().absolute())


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc:
        raise ValueError("LOOPLINE_S3_ENDPOINT_URL must look like https://host or https://host:port, without keys")
    return url


Network = IPv4Network | IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """The networks of a list with commas between, such as `10.1.0.0/16,127.0.0.1`.

    Raises:
        ValueError: a part of the list is not a network.
    """
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _networks(text: str) -> str:
    try:
        networks(text)
    except ValueError as error:
        raise ValueError(f"give networks with commas between, such as 10.1.0.0/16,192.0.2.7: {error}") from None
    return text


def _host_names(text: str) -> str:
    if wrong := [name for name in _split(text) if not _HOST_NAME.fullmatch(name)]:
        raise ValueError(f"give host names with commas between, such as gpu-box,example.org:8080; {wrong[0]!r} is none")
    return text


def _split(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]


_HOST_NAME = re.compile(r"([a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?")

HostNames = Annotated[str, AfterValidator(_host_names)]
Networks = Annotated[str, AfterValidator(_networks)]
StoreUrl = Annotated[str, AfterValidator(_store)]
InboxPlace = Annotated[str, AfterValidator(_inbox)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]

MIB = 1024 * 1024


def _database_url(settings: dict[str, Any]) -> str:
    if settings.get("database_url_file"):
        return _secret(settings["database_url_file"])
    return f"sqlite:///{settings.get('data_dir', Path('var').absolute())}/loopline.db"


def _broker_url(settings: dict[str, Any]) -> str:
    if settings.get("broker_url_file"):
        return _secret(settings["broker_url_file"])
    return "redis://127.0.0.1:6379/0"


class Settings(BaseSettings):
    """The environment of a process: every field is read from `LOOPLINE_` and its name in capitals.

    `database_url` and `broker_url` may hold a password: they are left out of the repr, and `LOOPLINE_DATABASE_URL_FILE`
    and `LOOPLINE_BROKER_URL_FILE` name files to read them from (Docker and Kubernetes secrets).
    """

    model_config = SettingsConfigDict(
        env_prefix="LOOPLINE_",
        env_ignore_empty=True,  # compose passes on what is not set as an empty text
        frozen=True,
        validate_default=True,
        extra="ignore",
        hide_input_in_errors=True,  # it may be a password
    )

    data_dir: AbsolutePath = Field(
        default=Path("var"),
        description="The folder for all data: the SQLite database, data sets, checkpoints and models. "
        "Example: /srv/loopline",
    )
    database_url_file: SecretFile | None = Field(
        default=None, description="A file that contains the database URL, instead of LOOPLINE_DATABASE_URL."
    )
    broker_url_file: SecretFile | None = Field(
        default=None, description="A file that contains the broker URL, instead of LOOPLINE_BROKER_URL."
    )
    database_url: str = Field(
        default_factory=_database_url,
        repr=False,
        description="The URL of the database, SQLite or PostgreSQL; by default SQLite in the data folder. "
        "Example: postgresql://loopline:secret@db/loopline",
    )
    broker_url: str = Field(
        default_factory=_broker_url,
        repr=False,
        description="The URL of the broker, Redis or Valkey; by default redis://127.0.0.1:6379/0. "
        "Example: redis://cache:6379/0",
    )
    blobs_url: StoreUrl | None = Field(
        default=None,
        description="The object store for data sets, checkpoints and models, for several hosts (docs/hosts.md). By "
        "default they are in the data folder. Use a prefix that nothing else uses, because unknown objects in it are "
        "deleted. Example: s3://bucket/loopline",
    )
    s3_endpoint_url: EndpointUrl | None = Field(
        default=None, description="The S3 server, if it is not AWS. Example: https://minio.internal:9000"
    )
    s3_region: str | None = Field(default=None, description="The region of the bucket. Example: eu-central-1")
    s3_access_key_file: SecretFile | None = Field(
        default=None,
        description="A file that contains the access key. Without it, keys are found as by every AWS tool: "
        "AWS_ACCESS_KEY_ID, ~/.aws, the machine's role.",
    )
    s3_secret_key_file: SecretFile | None = Field(
        default=None, description="A file that contains the secret key of the access key."
    )
    inbox: InboxPlace | None = Field(
        default=None,
        description="A folder, or a prefix in an object store (with the S3 settings above). Each file "
        "TENANT/NAME/FILE in it becomes the next version of the data set NAME (docs/inbox.md). Example: /srv/inbox",
    )
    host: str = Field(default="127.0.0.1", description="The address that the API listens on.")
    port: int = Field(default=8080, ge=0, le=65535, description="The port that the API listens on; 0 takes a free one.")
    auth: Literal["auto", "keys", "none"] = Field(
        default="auto",
        description="Who needs an API key. auto: nobody if the API listens on a loopback address only; everybody "
        "otherwise and in production. keys: everybody. none: nobody, on any address.",
    )
    rate_limit: str = Field(
        default="200 per 10 seconds",
        pattern=r"^(none|[1-9][0-9]{0,6} per ([1-9][0-9]{0,4} )?(second|minute|hour)s?)$",
        description="How many requests each API key may send; none means no limit. If no keys are needed, there is no "
        "limit either. Example: 1000 per minute",
    )
    allowed_hosts: HostNames = Field(
        default="",
        description="Host names at which this service is reached besides those of its own machine, separated by "
        "commas, for a proxy in front of it. Without a key the service answers only requests to such a name, and "
        "accepts changes only from web pages of such a host. A name with a port stands for that port alone "
        "(docs/keys.md). Example: loopline.example.org,gpu-box:8080",
    )
    webhook_allow: Networks = Field(
        default="",
        description="Networks of your own to which webhooks may be sent, separated by commas. By default they are sent "
        "only to public addresses (docs/webhooks.md). Example: 10.1.0.0/16,192.0.2.7",
    )
    production: bool = Field(
        default=False,
        description="Refuse to start with settings that are not safe on a server: no keys, SQLite, or a database or "
        "broker without a password or with a well-known one.",
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="The port at which Prometheus scrapes this process (docs/metrics.md). 0 turns metrics off.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="The address of LOOPLINE_METRICS_PORT. Anybody who can reach it can read the metrics.",
    )
    lease_seconds: float = Field(
        default=60.0,
        gt=0,
        description="How long a worker owns a job, or a scheduler the check of a file, without renewing its lease, in "
        "seconds of database time.",
    )
    renew_seconds: float = Field(default=10.0, gt=0, description="How often a lease is renewed, in seconds.")
    grace_seconds: float = Field(
        default=15.0,
        ge=0,
        description="How long after its lease has expired a job is taken from its worker, in seconds.",
    )
    reconcile_seconds: float = Field(
        default=5.0, gt=0, description="How often the scheduler looks for expired leases and waiting jobs, in seconds."
    )
    stuck_seconds: float = Field(
        default=120.0,
        gt=0,
        description="How long a runnable job may wait while a worker is idle, in seconds. After that, health checks "
        "report it. A worker that got no doorbell in this time assumes that it has lost the broker, and exits to be "
        "restarted.",
    )
    retry_seconds: float = Field(
        default=5.0,
        ge=0,
        description="The wait before the first retry of a failed job, in seconds; it doubles for each further retry.",
    )
    max_upload_bytes: int = Field(default=512 * MIB, gt=0, description="The largest data set upload, in bytes.")
    max_body_bytes: int = Field(
        default=MIB,
        gt=0,
        description="The largest JSON or YAML request body that is read, in bytes. Its text may have at most 262,144 "
        "characters.",
    )
    max_dataset_bytes: int = Field(
        default=4096 * MIB, gt=0, description="The largest data set, expanded to float32, in bytes."
    )
    max_expanding_bytes: int = Field(
        default=1024 * MIB,
        gt=0,
        description="How many bytes of memory all uploads together may use while they are read, in all processes that "
        "share LOOPLINE_DATA_DIR. A larger upload is read alone. One that gets no memory within "
        "LOOPLINE_CHECK_WAIT_SECONDS is checked later: the answer is 202.",
    )
    check_wait_seconds: float = Field(
        default=10.0,
        gt=0,
        le=60,
        description="How long an upload waits for memory and for the check of its file, in seconds. A longer check is "
        "done by the scheduler, in up to 10 minutes: the answer is 202, and the data set is `validating` until then.",
    )
    max_prediction_bytes: int = Field(
        default=8 * MIB, gt=0, description="The largest body of a request to predict, in bytes (docs/predict.md)."
    )
    prediction_models: int = Field(
        default=64, ge=1, description="How many models each process of the API keeps in memory to predict with."
    )
    prediction_models_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        description="How large the files of these models may be together, in bytes. The model that was asked last is "
        "kept even if it is larger.",
    )
    predictions_at_once: int | None = Field(
        default=None,
        ge=1,
        description="How many predictions each of the two processes of the API computes at once; by default half as "
        "many as the machine has cores. A few more wait, for at most 10 s; others get 503.",
    )
    prediction_threads: int = Field(default=1, ge=1, description="Threads of one prediction in ONNX Runtime.")
    trainer_threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of one trainer process; by default its worker's share of the cores. A small network "
        "trains with one.",
    )
    device: str = Field(
        default="auto",
        description="Where trainers compute: auto, cpu, cuda (one worker per GPU) or cuda:1 (docs/gpu.md).",
    )
    cpu_workers: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="How many workers share the CPU of a machine without a GPU. Each runs one job at a time. By "
        "default one per core, but at most 4, and at most one per GiB of memory. With 1, a job has all cores and "
        "all memory (docs/operations.md).",
    )
    gpus: str = Field(
        default="all",
        pattern=r"^(all|[A-Za-z0-9/-]+(,[A-Za-z0-9/-]+)*)$",
        description="The GPUs on which workers are started: all, or numbers or ids as `nvidia-smi -L` lists them, "
        "separated by commas. Example: 0,2",
    )
    spare_trainers: int = Field(
        default=1, ge=0, description="How many trainer processes each worker process keeps warm for the next job."
    )
    queues: str = Field(
        default="default",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}(,[a-z0-9][a-z0-9_-]{0,62})*$",
        description="The queues that a worker listens to, separated by commas. A name has 1 to 63 lowercase letters, "
        "digits, hyphens and underscores. Example: default,night",
    )
    celery_events: bool = Field(
        default=False,
        description="Whether workers send events about themselves and about each doorbell to Celery's monitors, such "
        "as Flower.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log line that is written."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="The format of log lines; auto means console on a terminal and json otherwise."
    )

    @model_validator(mode="after")
    def _one_source_each(self) -> Self:
        for name in ("database_url", "broker_url"):
            if getattr(self, f"{name}_file") and name in self.model_fields_set:
                raise ValueError(f"give LOOPLINE_{name.upper()} or LOOPLINE_{name.upper()}_FILE, not both")
        if (self.s3_access_key_file is None) != (self.s3_secret_key_file is None):
            raise ValueError("give both LOOPLINE_S3_ACCESS_KEY_FILE and LOOPLINE_S3_SECRET_KEY_FILE, or neither")
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError("LOOPLINE_RENEW_SECONDS must be at most half of LOOPLINE_LEASE_SECONDS")
        return self

    @model_validator(mode="after")
    def _fit_for_production(self) -> Self:
        if self.production and (found := self.unfit_for_production()):
            raise ValueError("\n".join(["LOOPLINE_PRODUCTION is set, and this is not fit for it:", *found]))
        return self

    def unfit_for_production(self) -> list[str]:
        """What must be changed before production, a sentence each."""
        return production.complaints(
            self.auth,
            database=production.Url(self._variable("database_url"), self.database_url),
            broker=production.Url(self._variable("broker_url"), self.broker_url),
        )

    def _variable(self, field: str) -> str:
        """The environment variable that gave a URL: its own, or that of a file that holds it."""
        return f"LOOPLINE_{field.upper()}{'_FILE' if getattr(self, f'{field}_file') else ''}"

    @cached_property
    def allowed_host_names(self) -> frozenset[str]:
        """The names in `allowed_hosts`, in small letters, as `Host` has them."""
        return frozenset(_split(self.allowed_hosts))

    @property
    def webhook_networks(self) -> tuple[Network, ...]:
        """The networks that `webhook_allow` names."""
        return networks(self.webhook_allow)

    @property
    def needs_keys(self) -> bool:
        """Whether clients of the API must show a key."""
        return self.auth == "keys" or (self.auth == "auto" and (self.production or not is_loopback(self.host)))

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues a worker listens to, in order, each once."""
        return tuple(dict.fromkeys(self.queues.split(",")))

    @property
    def s3_keys(self) -> tuple[str, str] | None:
        """The access key and its secret, from their files."""
        if self.s3_access_key_file is None or self.s3_secret_key_file is None:
            return None
        return _secret(self.s3_access_key_file), _secret(self.s3_secret_key_file)


@lru_cache(maxsize=64)  # two are asked about at each request
def is_loopback(host: str) -> bool:
    """Whether this name or address means this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
