"""Two machines and an object store: the one that runs a job dies, the other goes on with it, and they share no disk."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from tests.containers.stack import Stack, eventually
from tests.containers.test_stack import LONG, ended, make_key, needs_docker, report, submitted

pytestmark = needs_docker
STORE = {
    "LOOPLINE_BLOBS_URL": "s3://blobs/loopline",
    "LOOPLINE_S3_ENDPOINT_URL": "http://s3:9000",
    "LOOPLINE_S3_REGION": "us-east-1",
    "LOOPLINE_S3_ACCESS_KEY_FILE": "/run/loopline/service/s3_access_key",
    "LOOPLINE_S3_SECRET_KEY_FILE": "/run/loopline/service/s3_secret_key",
}
BUCKET = "import s3fs; s3fs.S3FileSystem(key='access', secret='secret', endpoint_url='http://s3:9000').mkdir('blobs')"


def test_a_worker_on_another_machine_goes_on_with_what_the_first_began(tmp_path: Path, undo: ExitStack) -> None:
    also = ("compose.hosts.yaml", "tests/containers/compose.s3.yaml")
    server = Stack(tmp_path, also=also, **STORE)
    undo.callback(server.remove)
    for name in ("s3_access_key", "s3_secret_key"):
        (server.folder / name).write_text(name.split("_")[1])
    server.compose("up", "--build", "--detach", "s3")
    server.compose("build")
    server.compose("up", "--detach", "--wait", "postgres")
    server.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "scheduler", "-c", BUCKET)
    server.as_written("hosts", "The server")
    make_key(server)

    job = submitted(server, epochs=LONG, checkpoint_seconds=1)
    eventually(lambda: job.checkpoints(), "a checkpoint in the store")
    other = second(server, tmp_path, undo)
    assert len(server.client().workers()) == 2
    began = time.monotonic()
    server.compose("kill", "worker")
    eventually(lambda: any(event.type == "resumed" for event in job.events()), "a second attempt that goes on")
    report("a machine dies beside another one", f"{time.monotonic() - began:.0f} s until the other goes on")
    job.cancel()
    assert ended(job).status == "cancelled"

    whole = ended(submitted(server, epochs=3))
    assert whole.status == "succeeded"
    assert {file.name for file in whole.download(tmp_path / "model")} == {
        *("model.safetensors", "model.json", "history.json"),
    }
    volumes = [
        {mount["Name"] for one in stack.containers() for mount in one["Mounts"] if "Name" in mount}
        for stack in (server, other)
    ]
    assert volumes[0] & volumes[1] == set()


def second(server: Stack, folder: Path, undo: ExitStack) -> Stack:
    """Another machine with a worker of its own."""
    also = ("compose.worker.yaml", "tests/containers/compose.other.yaml")
    other = Stack(folder, also=also, token=server.token, LOOPLINE_TEST_FIRST=server.project, **STORE)
    undo.callback(other.remove)
    for name in ("database_url", "broker_url", "s3_access_key", "s3_secret_key"):
        shutil.copy(server.folder / name, other.folder / name)
    other.as_written("hosts", "Another machine")
    assert other.containers("api") == []
    return other
