"""One stack of its own: a copy of the checkout, a project name, a free port; and nothing left of it at the end."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from loopline import Client

from tests.containers.documents import ROOT, blocks

T = TypeVar("T")
OURS = ("service", "worker", "postgres", "redis")


class Stack:
    """A stack that the commands of the documents act on."""

    def __init__(self, folder: Path, *, also: Sequence[str] = (), token: str | None = None, **variables: str) -> None:
        self.token, self._owns_images = token or secrets.token_hex(3), token is None
        self.project = f"loopline-test-{secrets.token_hex(3)}"
        self.folder = folder / self.project
        self.files = ":".join(["compose.yaml", "compose.cpu.yaml", *also])
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._clients: dict[str, Client] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "LOOPLINE_API_KEY"},
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": self.files,
            "LOOPLINE_PUBLISH": f"127.0.0.1:{self.port}",
            "LOOPLINE_VERSION": f"test-{self.token}",
            "LOOPLINE_WORKER_MEMORY": "3g",
            "LOOPLINE_CPU_WORKERS": "1",  # so a container is a worker
            **{f"LOOPLINE_{name}_PUBLISH": f"127.0.0.1:{free_port()}" for name in ("PROMETHEUS", "FLOWER", "GRAFANA")},
            **variables,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
        for name in filter(None, listed.split("\0")):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy2(ROOT / name, target)

    def as_written(self, page: str, heading: str) -> str:
        """Run the commands under a heading of the documents, as they stand there; what they printed."""
        script = "\n".join(blocks(page)[heading]).replace(":8080", f":{self.port}")
        script = re.sub(r"COMPOSE_FILE=\S+", f"COMPOSE_FILE={self.files}", script)
        return self.run("bash", "-euo", "pipefail", "-c", script)

    def run(self, *command: str, input: str | None = None, seconds: float = 1800) -> str:
        """Run a command in the checkout; its standard output. A failure says everything that was printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def compose(self, *arguments: str, input: str | None = None) -> str:
        return self.run("docker", "compose", *arguments, input=input)

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """The running containers of a service, or all, as `docker inspect` shows them."""
        ids = self.compose("ps", "--quiet", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(self.run("docker", "inspect", *ids)) if ids else []
        return found

    @property
    def key(self) -> str:
        """The key that the documents' first command made."""
        return (self.folder / "key").read_text().strip()

    def client(self) -> Client:
        """A client with that key."""
        if self.key not in self._clients:
            self._clients[self.key] = Client(self.url, api_key=self.key)
        return self._clients[self.key]

    def image_sizes(self) -> dict[str, tuple[int, int]]:
        """Of each image its size, and how much of that is ours and not the official image's, in bytes."""
        bases = {"postgres": "postgres:17-bookworm", "redis": "redis:8-bookworm"}
        sizes = {}
        for name in OURS:
            base = self.environment.get(f"LOOPLINE_{name.upper()}_IMAGE") or bases.get(
                name, "python:3.11-slim-bookworm"
            )
            whole, below = (
                int(self.run("docker", "image", "inspect", "--format", "{{.Size}}", image))
                for image in (f"loopline-{name}:test-{self.token}", base)
            )
            sizes[name] = (whole, whole - below)
        return sizes

    def remove(self) -> None:
        """Take everything away, and see that nothing is left."""
        for client in self._clients.values():
            client.close()
        self.run("docker", "compose", "--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "30")
        if self._owns_images:
            named = f"reference=loopline-*:test-{self.token}"
            images = self.run(
                "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", named
            ).split()
            if images:  # none, where the build failed
                self.run("docker", "image", "rm", *images)
        assert self.leftovers() == []

    def leftovers(self) -> list[str]:
        """What the engine still has of this stack, by name. Of others, which may run beside it, nothing is said."""
        kinds: list[tuple[str, ...]] = [
            ("ps", "--all", "--format", "container {{.Names}}", "--filter", f"name={self.project}"),
            ("volume", "ls", "--format", "volume {{.Name}}", "--filter", f"name={self.project}"),
            ("network", "ls", "--format", "network {{.Name}}", "--filter", f"name={self.project}"),
        ]
        if self._owns_images:
            named = f"reference=loopline-*:test-{self.token}"
            kinds.append(("image", "ls", "--format", "image {{.Repository}}:{{.Tag}}", "--filter", named))
        return [line for kind in kinds for line in self.run("docker", *kind).splitlines()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def eventually(look: Callable[[], T | None], what: str, seconds: float = 200) -> T:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")
