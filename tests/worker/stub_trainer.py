"""A trainer without torch that speaks the real one's protocol; tests choose what it does by the job's tags.

`stub: hold` trains its first step and waits for a file `go` in the job's folder, `thorough`, `discuss` and `offer`
their fifth. `exit`, `kill`, `silent`, `flood`, `garbage`, `deaf`, `orphan`, `diverge`, `device`, `cold`, `unbuilt`,
`half`, `headless` and `mortal` are ways to go wrong; `slow`, `brief`, `chatter`, `talk`, `back` and `linger` are ways
to go on. `times` is for how many attempts. A greater `training.seed` has a greater validation loss.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.training.messages import PROTOCOL
from worker.process import be_first_to_be_killed, die_at, die_with_parent, let_alarms_kill
from worker.trainer import lines

STEPS_PER_EPOCH = 4
MEMORY = 3 << 30
SIGNALS = {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV}
EXITS = {"exit": 7, "silent": 0}
FAILURES = {
    "diverge": ("diverged", "Training diverged at step 5."),
    "device": ("device_lost", "CUDA error: unspecified launch failure"),
}

inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # whether a trial goes on after a rung
registered: queue.SimpleQueue[int] = queue.SimpleQueue()  # how many checkpoints of this attempt are in the database
events = int(os.environ.pop("LOOPLINE_EVENTS_FD", -1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int)
    die_with_parent(parser.parse_args().parent)
    let_alarms_kill()
    be_first_to_be_killed()
    threading.Thread(target=listen, daemon=True).start()
    send(event="ready", protocol=PROTOCOL, device="cpu", memory=MEMORY)
    order = inbox.get()
    tags = order["spec"]["tags"]
    stub = tags.get("stub", "") if order["attempt"] <= int(tags.get("times", "99")) else ""
    train(order, stub)


def train(order: dict[str, Any], stub: str) -> None:
    if stub == "cold":
        send(event="failed", reason="device_lost", message="No CUDA GPUs are available", traceback=None)
        sys.exit(1)
    folder, epochs = Path(order["directory"]), order["spec"]["training"]["epochs"]
    begin = json.loads(Path(order["resume"]).read_text())["step"] if order.get("resume") else 0
    resumed = {"epoch": begin // STEPS_PER_EPOCH, "step": begin} if begin else None
    send(
        event="started",
        epochs=epochs,
        steps_per_epoch=STEPS_PER_EPOCH,
        resumed_from=resumed,
        best=best(begin // STEPS_PER_EPOCH) if begin >= STEPS_PER_EPOCH else None,
        parameters=1,
        device="cpu",
        threads=1,
        torch="none",
        details={"pid": os.getpid(), "environment": sorted(os.environ)},
    )
    if stub == "unbuilt":
        send(event="failed", reason="cannot_train", message="RuntimeError: no primitive", traceback="Traceback: ...")
        sys.exit(1)
    for step in range(begin + 1, epochs * STEPS_PER_EPOCH + 1):
        send(event="steps", first_step=step, loss=[1.0 / step], grad_norm=[float(step)])
        if step == 1:
            send(event="device", memory={"allocated": 10, "reserved": 30, "peak": 20})
        if step % STEPS_PER_EPOCH == 0:
            end_epoch(order, folder, step)
        between_steps(stub)
        for _ in go_wrong(stub, folder, step):
            if (reason := stop_asked(stub)) is not None:
                files = checkpoint(folder, step, seconds=1 if stub == "thorough" else 0)
                send(event="checkpoint", epoch=step // STEPS_PER_EPOCH, step=step, best=False, files=files)
                offered = offer(folder, "damage" in order["spec"]["tags"]) if stub == "offer" else {}
                send(event="stopped", reason=reason, **offered)
                return
    metrics = {"validation_loss": 0.5 / epochs}
    files = [write(folder / name, name.encode()) for name in ("model.safetensors", "model.json", "history.json")]
    if stub == "linger":
        while begin < epochs * STEPS_PER_EPOCH and registered.get() < epochs - begin // STEPS_PER_EPOCH:
            pass  # the last checkpoint is to be registered before the end comes
    if stub == "half":
        files[0]["sha256"] = "0" * 64
    result = {"best_epoch": epochs, "epochs": epochs, "stopped_early": False, "metrics": metrics}
    send(event="finished", result=result, files=files)
    if stub == "linger":
        time.sleep(60)


def end_epoch(order: dict[str, Any], folder: Path, step: int) -> None:
    epoch = step // STEPS_PER_EPOCH
    loss = 2.0 / step * (1 + order["spec"]["training"]["seed"])
    record = {"epoch": epoch, "train_loss": 1.0 / step, "validation_loss": loss}
    send(event="epoch", record=record, best=best(epoch))
    if epoch in order.get("rungs", ()) and not answers.get(timeout=60)["goes_on"]:
        send(event="stopped", reason="pruned", **offer(folder, damaged=False))
        sys.exit(0)
    send(event="checkpoint", epoch=epoch, step=step, best=True, files=checkpoint(folder, step))


def between_steps(stub: str) -> None:
    if stub == "brief":
        time.sleep(0.003)  # 80 epochs a second
    if stub == "mortal" and random.random() < 0.1:
        os.kill(os.getpid(), signal.SIGKILL)


def best(epoch: int) -> dict[str, Any]:
    """Each epoch is better than those before it."""
    return {"epoch": epoch, "metric": "validation_loss", "value": 2.0 / (epoch * STEPS_PER_EPOCH)}


def offer(folder: Path, damaged: bool) -> dict[str, Any]:
    """The best weights of a run that is cut short."""
    result = {"complete": False, "incomplete_because": "cancelled", "best_epoch": 1, "epochs": 1}
    files = [write(folder / name, name.encode()) for name in ("model.safetensors", "model.json", "history.json")]
    if damaged:
        write(folder / "model.safetensors", b"MODEL.SAFETENSORS")
    return {"result": {**result, "stopped_early": False, "metrics": {"validation_loss": 0.5}}, "files": files}


def go_wrong(stub: str, folder: Path, step: int) -> Iterator[None]:
    """What happens after a step; yields where a request to stop is looked for."""
    yield
    if step != STEPS_PER_EPOCH + 1 and stub != "hold":
        return
    go_on(stub, step)
    if stub in {"deaf", "thorough", "discuss", "offer"} or (stub == "hold" and step == 1):
        while not (folder / "go").exists():
            time.sleep(0.005)
            yield
    elif stub in SIGNALS:
        os.kill(os.getpid(), SIGNALS[stub])
    elif stub in EXITS:
        print("Traceback: the stub gives up", file=sys.stderr)
        sys.exit(EXITS[stub])
    elif stub == "flood":
        for _ in range(64):
            os.write(2, b"\xff\xfe flood \x00" * 100_000)
        print("the last line", file=sys.stderr, flush=True)
        sys.exit(1)
    elif stub == "garbage":
        os.write(events, b"this is no JSON\n")
        time.sleep(60)
    elif stub == "orphan":
        child = subprocess.Popen(["/bin/sleep", "60"])
        send(event="log", level="info", message=f"child {child.pid}")
        (folder / "child").write_text(str(child.pid))
        sys.exit(1)
    elif stub == "headless":
        send(event="finished")
    elif stub in FAILURES:
        reason, message = FAILURES[stub]
        send(event="failed", reason=reason, message=message, traceback=None)
        sys.exit(1)


def go_on(stub: str, step: int) -> None:
    """What is told besides the numbers, by those that go on."""
    if stub == "slow":
        for _ in range(20):
            time.sleep(0.1)
            send(event="note", type="warning", level="info", message="still there", data={})
    elif stub == "chatter":
        for number in range(1000):  # 100 MB
            os.write(1, b"".join(b"%099d\n" % line for line in range(number * 1000, number * 1000 + 1000)))
    elif stub in {"talk", "discuss"}:
        os.write(2, b"one line\nprogress 1\rprogress 2\r\n\xff\x00 bytes\nno end")
        send(event="note", type="micro_batch", level="warning", message="Half of it.", data={"micro_batch": 8})
        send(event="log", level="info", message="all is well")
        send(event="log", level="warning", message="less is well")
    elif stub == "back":
        send(event="rolled_back", epoch=0, step=0, message="Rolled back.", data={"lr_factor": 0.5}, best=None)
        send(event="steps", first_step=1, loss=[9.0] * step, grad_norm=[1.0] * step)
        record = {"epoch": 1, "train_loss": 9.0, "validation_loss": 9.0}
        send(event="epoch", record=record, best={"epoch": 1, "metric": "validation_loss", "value": 9.0})


def stop_asked(stub: str) -> str | None:
    if stub == "deaf":
        return None
    try:
        return str(inbox.get_nowait()["reason"])
    except queue.Empty:
        return None


def checkpoint(folder: Path, step: int, seconds: float = 0) -> list[dict[str, Any]]:
    """Two files, the second one `seconds` after the first."""
    name = f"checkpoint-{step:09d}"
    tensors = write(folder / f"{name}.safetensors", b"weights" * step)
    time.sleep(seconds)
    return [write(folder / f"{name}.json", json.dumps({"step": step}).encode()), tensors]


def write(path: Path, data: bytes) -> dict[str, Any]:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def listen() -> None:
    for line in lines(0):
        message = json.loads(line)
        if message["request"] == "lease":
            die_at(message["until"])
        elif message["request"] == "heard":
            registered.put(message["count"])
        elif message["request"] == "rung":
            answers.put(message)
        else:
            inbox.put(message)
    os._exit(3)


def send(**event: Any) -> None:
    os.write(events, json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    main()
