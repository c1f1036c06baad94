"""The health check of a worker's container: `python -m worker.health`.

Exit status 0: workers of this host sent heartbeats recently, at least one can work, and none ignores waiting jobs.
Otherwise 1, with a sentence. It reads the same LOOPLINE_ settings as the worker, and queries only the database.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.engine import Engine

from services import db
from services.errors import Unavailable
from services.jobs import workers
from services.settings import Settings
from services.wording import setting_sentences


def complaints(engine: Engine, settings: Settings, host: str) -> Sequence[str]:
    """What is wrong with the workers of `host`, in sentences; none when all is well. Raises Unavailable."""
    with db.read_scope(engine) as session:
        here = [worker for worker in workers.seen(session) if worker.name.split(":")[0] == host]
        if not here:
            return [f"No worker of {host} was seen in the last {workers.SEEN_SECONDS:g} s."]
        broken = [workers.broken(worker) for worker in here if worker.state == workers.State.BROKEN]
        if len(broken) == len(here):  # starting them anew may help, and interrupts nobody
            return broken
        return [
            f"{worker.name} is idle, while jobs of its queues have waited for more than {settings.stuck_seconds:g} s."
            for worker in here
            if worker.state == workers.State.IDLE
            and workers.runnable_for(session, workers.queues(worker), settings.stuck_seconds)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.health",
        description="Exits with 0 when workers of this host were seen lately and leave no work lying, else with 1 and "
        "a sentence. Reads the same LOOPLINE_ settings as the worker.",
    )
    parser.add_argument("--host", default=socket.gethostname(), help="whose workers; by default this machine's")
    host = parser.parse_args(arguments).host
    try:
        settings = Settings()
        engine = db.engine(settings.database_url)
        db.check_schema(engine)
        found = complaints(engine, settings, host)
        engine.dispose()
    except ValidationError as error:
        found = [*setting_sentences(error)]
    except Unavailable as error:
        found = [error.message]
    print("\n".join(found or [f"The workers of {host} are well."]), file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
