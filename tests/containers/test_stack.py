"""A stack lives through what the documents tell people to do with it, and through faults; its figures are printed."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopline.job import Job

from tests.containers.stack import Stack, eventually

needs_docker = [
    pytest.mark.skipif("LOOPLINE_CONTAINERS" not in os.environ, reason="needs a Docker engine: make test-containers"),
    pytest.mark.timeout(3600),
]
pytestmark = needs_docker
LONG = 20_000
"""Epochs: longer than anybody waits for here."""
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.fixture
def stack(tmp_path: Path, undo: ExitStack) -> Stack:
    made = Stack(tmp_path)
    undo.callback(made.remove)
    return made


def test_a_stack_lives_as_the_documents_say(stack: Stack) -> None:
    try:
        live(stack)
    except BaseException:
        print(stack.compose("ps", "--all"), stack.compose("logs", "--no-color", "--tail", "60"), flush=True)
        raise


def live(stack: Stack) -> None:
    start(stack)
    first_job(stack)
    is_locked_down(stack)
    stores_are_closed_to_strangers(stack)
    a_trainer_without_room_goes_first(stack)
    a_killed_worker_is_followed(stack)
    a_broker_that_restarts_loses_nothing(stack)
    an_upgrade_keeps_what_is_queued(stack)
    passwords_rotate(stack)
    drains_and_stops(stack)
    a_backup_restores(stack)
    room_is_made(stack)
    prometheus_finds_every_process(stack)
    flower_shows_the_worker(stack)
    one_request_is_found_in_every_log(stack)
    no_secret_is_logged(stack)


# Starting, and the first job


def start(stack: Stack) -> None:
    began = time.monotonic()
    stack.run("docker", "compose", "build")
    report("images built", f"{time.monotonic() - began:.0f} s")
    for name, (whole, ours) in stack.image_sizes().items():
        report(f"image {name}", f"{whole / 1e6:.0f} MB, {ours / 1e6:.0f} MB of it beyond its base")
    began = time.monotonic()
    stack.as_written("server", "Start")
    report("from nothing to healthy", f"{time.monotonic() - began:.1f} s")
    assert "Loopline is up" in stack.run("docker/up.sh")  # a second start changes nothing


def first_job(stack: Stack) -> None:
    printed = stack.as_written("server", "The first key and the first job")
    assert "succeeded" in printed
    assert (stack.folder / "model" / "model.safetensors").stat().st_size > 10_000
    accuracy = json.loads((stack.folder / "model" / "model.json").read_text())["metrics"]["test_accuracy"]
    assert accuracy > 0.95
    assert httpx.get(f"{stack.url}/v1/jobs").status_code == 401
    assert "healthy" in stack.as_written("server", "Look after it")
    began = time.monotonic()
    job = submitted(stack, epochs=2)
    eventually(lambda: job.refresh().progress.epoch >= 1, "a first epoch")
    report("from POST to the first epoch", f"{time.monotonic() - began:.2f} s")
    assert ended(job).status == "succeeded"


# What is closed


def is_locked_down(stack: Stack) -> None:
    """Of every container: no root, no capability, nothing writable but its volumes and /tmp."""
    assert {one["Config"]["Labels"]["com.docker.compose.service"] for one in stack.containers()} == {
        *("api", "scheduler", "worker", "postgres", "redis"),
    }
    for one in stack.containers():
        name, host = one["Name"], one["HostConfig"]
        status = stack.run("docker", "exec", one["Id"], "cat", "/proc/self/status")
        said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(said["Uid"].split()) == {"10001"}, name
        assert {int(said[kind], 16) for kind in CAPABILITIES} == {0}, name
        assert said["NoNewPrivs"].strip() == "1", name
        assert (host["ReadonlyRootfs"], host["Init"], host["Privileged"]) == (True, True, False), name
        assert host["Memory"] > 0, name
        volumes = [mount["Name"] for mount in one["Mounts"] if mount["Type"] == "volume"]
        assert all(volume.startswith(f"{stack.project}_") for volume in volumes), "one without a name would stay behind"
        for folder in ("/", "/etc", "/usr", "/app"):
            probe = f"! touch {folder}/probe 2>/dev/null"
            stack.run("docker", "exec", one["Id"], "sh", "-c", probe)
        people = {line.split()[0] for line in stack.run("docker", "top", one["Id"], "-o", "uid,pid").splitlines()[1:]}
        assert people == {"10001"}, name
    worker = stack.containers("worker")[0]["Id"]
    scores = stack.run("docker", "exec", worker, "sh", "-c", TRAINERS)
    assert set(scores.split()) == {"1000"}, "the trainer is the first to go when memory runs out"


TRAINERS = (
    "for p in /proc/[0-9]*; do if tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q 'worker[.]trainer'; "
    "then cat $p/oom_score_adj; fi; done"
)


def stores_are_closed_to_strangers(stack: Stack) -> None:
    """PostgreSQL and Redis are published nowhere, reached by no container outside, and give their users little."""
    published = {one["Name"]: ports(one) for one in stack.containers()}
    assert [ports for ports in published.values() if ports] == [[("8080/tcp", "127.0.0.1", str(stack.port))]]
    image = f"loopline-service:test-{stack.token}"
    for service, port in (("postgres", 5432), ("redis", 6379), ("worker", 9464)):
        networks = stack.containers(service)[0]["NetworkSettings"]["Networks"]
        address = networks[f"{stack.project}_inner"]["IPAddress"]
        inside = stack.compose("exec", "-T", "api", "python", "-c", connects(address, port))
        outside = stack.run("docker", "run", "--rm", "--entrypoint", "python", image, "-c", connects(address, port))
        assert (inside.strip(), outside.strip()) == ("reached", "not reached"), service
    refused = "import redis,os;r=redis.from_url(open(os.environ['LOOPLINE_BROKER_URL_FILE']).read());"
    for call in ("r.config_get()", "r.flushall()", "r.keys()", "r.client_list()", "r.acl_list()"):
        script = f"{refused}\ntry:\n  {call}\nexcept redis.exceptions.NoPermissionError: print('refused')"
        assert stack.compose("exec", "-T", "api", "python", "-c", script).strip() == "refused", call
    role = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = 'loopline'"
    command = ("psql", "--username", "postgres", "--tuples-only", "--no-align", "--command", role)
    assert stack.compose("exec", "-T", "postgres", *command).strip() == "f"
    denied = stack.compose("exec", "-T", "redis", "redis-cli", "--user", "health", "--pass", "x", "acl", "log")
    assert "NOPERM" in denied


def connects(address: str, port: int) -> str:
    return (
        "import socket\ntry:\n"
        f"  socket.create_connection(({address!r}, {port}), timeout=3); print('reached')\n"
        "except OSError: print('not reached')"
    )


def ports(container: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = container["NetworkSettings"]["Ports"] or {}
    return [(port, one["HostIp"], one["HostPort"]) for port, at in found.items() for one in at or ()]


# Faults


def a_trainer_without_room_goes_first(stack: Stack) -> None:
    """A job that needs more memory than its container's 3 GiB fails and says so; the worker lives on."""
    worker = stack.containers("worker")[0]
    # Of 4 GB it is known before that they do not fit. Of 1.4 GB, held twice, it is not: the kernel ends the trainer.
    for samples, reason in ((200_000, "too_large"), (72_000, "out_of_memory_host")):
        data = {"synthetic": {"samples": samples, "length": 250, "features": 20, "classes": 2}}
        job = ended(stack.client().submit(small(epochs=1) | {"data": data, "limits": {"max_retries": 0}}))
        assert (job.status, job.reason) == ("failed", reason)
    after = stack.containers("worker")[0]
    assert (after["Id"], after["State"]["StartedAt"]) == (worker["Id"], worker["State"]["StartedAt"])
    assert ended(submitted(stack, epochs=2)).status == "succeeded"


def a_killed_worker_is_followed(stack: Stack) -> None:
    """Two workers, one killed in the middle of a job: the other one goes on with it from where it stood."""
    stack.as_written("operations", "Add a worker")
    assert len(stack.containers("worker")) == 2
    job = submitted(stack, epochs=LONG, checkpoint_seconds=1)
    eventually(lambda: job.checkpoints(), "a checkpoint")
    owner = eventually(
        lambda: next((one.name for one in stack.client().workers() if one.job_id == job.id), None), "a sign of life"
    )
    began, step = time.monotonic(), job.refresh().progress.step
    stack.run("docker", "kill", owner.partition(":")[0])
    eventually(lambda: any(event.type == "resumed" for event in job.events()), "a second attempt that resumed")
    eventually(lambda: job.refresh().progress.step > step, "a step of it")
    report("a worker killed beside another", f"{time.monotonic() - began:.0f} s to a step that is new")
    job.cancel()
    assert ended(job).status == "cancelled"
    stack.compose("up", "--detach", "--wait", "--scale", "worker=1", "worker")


def a_broker_that_restarts_loses_nothing(stack: Stack) -> None:
    running = submitted(stack, epochs=300)
    waiting = [submitted(stack, epochs=2) for _ in range(3)]
    eventually(lambda: running.refresh().status == "running", "a running job")
    stack.compose("restart", "redis")
    assert {ended(job).status for job in (running, *waiting)} == {"succeeded"}
    assert running.refresh().attempt == 1
    assert "CRITICAL" not in stack.compose("logs", "--no-color", "redis")


def an_upgrade_keeps_what_is_queued(stack: Stack) -> None:
    """From the schema of the migration before, with jobs queued."""
    stack.compose("stop", "worker")
    waiting = [submitted(stack, epochs=2) for _ in range(3)]
    stack.compose("stop", "api", "scheduler")
    stack.compose("run", "--rm", "--no-deps", "--entrypoint", "alembic", "migrate", "downgrade", "-1")
    began = time.monotonic()
    stack.as_written("operations", "Upgrade")
    report("upgraded, from the schema before", f"{time.monotonic() - began:.0f} s to healthy")
    make_key(stack)
    assert {ended(stack.client().get(job.id)).status for job in waiting} == {"succeeded"}


def passwords_rotate(stack: Stack) -> None:
    read = ("exec", "-T", "api", "cat", "/run/loopline/service/database_url", "/run/loopline/service/broker_url")
    before = stack.compose(*read)
    stack.as_written("operations", "Rotate passwords and keys")
    assert stack.compose(*read) != before
    assert ended(submitted(stack, epochs=2)).status == "succeeded"


def drains_and_stops(stack: Stack) -> None:
    job = submitted(stack, epochs=LONG)
    eventually(lambda: job.refresh().progress.epoch >= 5, "some epochs")
    began = time.monotonic()
    stack.as_written("operations", "Drain a host")
    report("drained and started", f"{time.monotonic() - began:.1f} s")
    eventually(lambda: job.refresh().attempt == 2 and job.refresh().progress.epoch >= 6, "a second attempt")
    assert (job.refresh().raw["lost"], job.refresh().raw["failures"]) == (0, 0)
    stack.as_written("server", "Stop")
    eventually(lambda: is_up(stack), "the API's return")
    eventually(lambda: job.refresh().attempt == 3 and job.refresh().status == "running", "a third attempt")
    job.cancel()
    assert ended(job).status == "cancelled"


def a_backup_restores(stack: Stack) -> None:
    whole = ended(submitted(stack, epochs=3))
    unfinished = submitted(stack, epochs=LONG, checkpoint_seconds=1)
    eventually(lambda: unfinished.checkpoints(), "a checkpoint")
    before = model_hash(stack, whole)
    stack.as_written("operations", "Back up")
    stack.as_written("operations", "Restore")
    assert model_hash(stack, stack.client().get(whole.id)) == before  # with the key of before
    eventually(
        lambda: unfinished.refresh().attempt >= 2 and unfinished.refresh().progress.epoch > 1,
        "the job that ran going on",
    )
    unfinished.cancel()
    assert ended(unfinished).status == "cancelled"


def room_is_made(stack: Stack) -> None:
    job = ended(submitted(stack, epochs=2))
    stack.environment.update(LOOPLINE_URL=stack.url, LOOPLINE_API_KEY=stack.key)
    stack.as_written("operations", "When the disk fills")
    stack.compose("exec", "-T", "api", "sh", "-c", f"! test -e /var/lib/loopline/blobs/jobs/{job.id}")


# Watching

PROMETHEUS = "prom/prometheus:v3.5.0"


def prometheus_finds_every_process(stack: Stack) -> None:
    found = subprocess.run(["docker", "image", "inspect", PROMETHEUS], capture_output=True, check=False)
    if found.returncode and subprocess.run(["docker", "pull", "-q", PROMETHEUS], check=False).returncode:
        return report("Prometheus", f"not tried: {PROMETHEUS} is not to be had here")
    stack.compose("--profile", "monitoring", "up", "--detach", "prometheus")
    [container] = stack.containers("prometheus")
    [(_, _, port)] = ports(container)

    def up() -> set[str]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": "up == 1"}).json()
        except httpx.TransportError:
            return set()
        return {one["metric"]["job"] for one in answer["data"]["result"]}

    eventually(lambda: up() == {"api", "worker", "scheduler"}, "a scrape of all three", 120)
    rules = httpx.get(f"http://127.0.0.1:{port}/api/v1/rules").json()["data"]["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
    return None


def flower_shows_the_worker(stack: Stack) -> None:
    stack.environment["LOOPLINE_CELERY_EVENTS"] = "true"
    stack.compose("up", "--detach", "--wait", "worker")
    stack.compose("--profile", "flower", "up", "--build", "--detach", "flower")
    [(_, _, port)] = ports(stack.containers("flower")[0])

    def page() -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/").text
        except httpx.TransportError:
            return ""

    eventually(lambda: "cpu@" in page(), "a worker in Flower", 120)


# Logs


def one_request_is_found_in_every_log(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {stack.key}", "X-Request-Id": f"night-{stack.token}"}
    answer = httpx.post(f"{stack.url}/v1/jobs", json=small(epochs=2), headers=headers).raise_for_status().json()
    assert ended(stack.client().get(answer["id"])).status == "succeeded"
    for service in ("api", "worker"):
        lines = stack.compose("logs", "--no-log-prefix", service).splitlines()
        said = [json.loads(line[line.index("{") :]) for line in lines if line.endswith("}")]
        assert [line for line in said if line.get("request_id") == headers["X-Request-Id"]], service


def no_secret_is_logged(stack: Stack) -> None:
    logs = stack.compose("logs", "--no-color")
    names = "service/database_url service/broker_url"
    found = stack.compose("exec", "-T", "api", "sh", "-c", f"cd /run/loopline; for f in {names}; do cat $f; echo; done")
    secrets = [line.partition("@")[0].rpartition(":")[2] for line in found.splitlines() if line]
    secrets.append(stack.key.rpartition("_")[2])
    assert len(secrets) == 3
    assert all(len(secret) >= 30 for secret in secrets)
    assert [secret for secret in secrets if secret in logs] == []


# Jobs


def small(epochs: int, checkpoint_seconds: float = 30.0) -> dict[str, Any]:
    return {
        "architecture": {"cell": "gru", "hidden_size": 16},
        "training": {"epochs": epochs, "batch_size": 20},
        "checkpoints": {"every_seconds": checkpoint_seconds},
        "data": {"synthetic": {"samples": 400, "length": 20, "features": 4, "classes": 2}},
    }


def submitted(stack: Stack, *, epochs: int, checkpoint_seconds: float = 30.0) -> Job:
    return stack.client().submit(small(epochs, checkpoint_seconds))


def ended(job: Job) -> Job:
    def look() -> Job | None:
        seen = job.refresh()
        return seen if seen.terminal else None

    return eventually(look, f"the end of {job.id}", 300)


def model_hash(stack: Stack, job: Job) -> str:
    folder = stack.folder / "downloads"
    files = job.download(folder)
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def make_key(stack: Stack) -> None:
    scopes = ("--tenant", "default", "--name", "again", "--scopes", "read,submit,admin")
    made = stack.compose("exec", "-T", "api", "python", "-m", "services", "keys", "create", *scopes)
    (stack.folder / "key").write_text(made)


def is_up(stack: Stack) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", stack.port)):
            return False
    try:
        return httpx.get(f"{stack.url}/v1/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def report(what: str, figure: str) -> None:
    print(f"  {what:<34} {figure}", flush=True)
