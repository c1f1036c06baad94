"""`python -m local run` keeps the service up, `python -m local demo` shows it at work: `make run` and `make demo`."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from local.launcher import CannotListen, Failed, InUse, Launcher, Part, signals_as_interrupts
from services.settings import Settings, is_loopback
from services.starting import cannot_write
from services.wording import setting_sentences


def main() -> int:
    options = _options()
    try:
        with signals_as_interrupts():
            status: int = options.command(options)
            return status
    except KeyboardInterrupt:
        return 130
    except (CannotListen, Failed, InUse) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if (sentence := cannot_write(error)) is None:
            raise
        print(sentence, file=sys.stderr)
        return 1
    except ValidationError as error:
        print("\n".join(setting_sentences(error)), file=sys.stderr)
        return 2


def run(_: argparse.Namespace) -> int:
    """Start the service and stay."""
    settings = Settings()
    shown = Path(settings.data_dir)
    print(f"Starting Loopline in {shown}", flush=True)
    with Launcher(settings, part_printer(), on_stop=stopping, on_restart=partial(print, flush=True)) as service:
        if settings.port not in (0, service.settings.port):
            print(f"Port {settings.port} is taken; using {service.settings.port}.")
        print(addresses(service), flush=True)
        with suppress(KeyboardInterrupt):
            service.watch()
    print("Stopped.")
    return 0


def stopping() -> None:
    print("\nStopping the service; running jobs are checkpointed and go on at the next start.", flush=True)


def show(_: argparse.Namespace) -> int:
    """Run the demo."""
    from local import demo  # the client comes along, which `run` does not need

    return demo.run(part_printer())


def part_printer(write: Callable[[str], None] = lambda line: print(line, flush=True)) -> Callable[[Part], None]:
    """A line for each part that has started."""
    return lambda part: write(f"  {part.name:<10} {'started' if part.seconds is None else f'{part.seconds:5.2f} s'}")


def addresses(service: Launcher) -> str:
    folder = service.folder
    rows = {
        "API": f"{service.url}/v1",
        "documentation": f"{service.url}/docs",
        "health": f"{service.url}/v1/health/ready",
        "API keys": keys(service.settings),
        "broker": service.settings.broker_url.rpartition("@")[2].removeprefix("redis://"),
        "data": str(folder),
        "logs": f"{folder / 'log'}/api.log, worker.log, scheduler.log, broker.log",
    }
    lines = [f"  {name:<14} {value}" for name, value in rows.items()]
    other = "" if service.settings.port == 8080 else f"  (for the command: export LOOPLINE_URL={service.url})"
    return "\n".join(
        [
            "",
            f"Open {service.url} to watch it.",
            "",
            "Loopline is up. Ctrl-C stops it.",
            "",
            *lines,
            *([other] if other else []),
            "",
        ]
    )


def keys(settings: Settings) -> str:
    """Whether a key is needed, why, and how to have it otherwise."""
    if settings.needs_keys:
        return "needed; the first one: .venv/bin/python -m services keys create --scopes read,submit,admin"
    where = (
        "it listens on this machine only" if is_loopback(settings.host) else "LOOPLINE_AUTH=none: anybody may come in"
    )
    return f"none needed: {where} (LOOPLINE_AUTH=keys asks for them)"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="run|demo")
    staying = commands.add_parser("run", help="start the service in ./var (LOOPLINE_DATA_DIR) and keep it up")
    staying.set_defaults(command=run)
    showing = commands.add_parser("demo", help="train a network on real speech through the whole service, then stop")
    showing.set_defaults(command=show)
    return parser.parse_args()


if __name__ == "__main__":
    status = main()
    gc.freeze()  # or the interpreter searches all modules for garbage at its end
    sys.exit(status)
