"""`python -m worker.start worker.app`: one Celery worker, with a pool of one process; see worker/fleet.py.

Celery's own command would do the same, but it imports the command lines of all its other parts first.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.start", description="Starts one Celery worker.")
    parser.add_argument("app", metavar="MODULE", help="the module whose `app` is the Celery app: worker.app")
    parser.add_argument("--hostname", help="the worker's name for Celery's monitors, such as cuda:0@%%h")
    parser.add_argument("--without-heartbeat", action="store_true", help="send no heartbeat to Celery's monitors")
    options = parser.parse_args()

    gc.disable()  # importing makes many objects, none of them garbage
    app = importlib.import_module(options.app).app
    from celery.utils.nodenames import default_nodename, host_format

    from services.starting import exit_on_error

    with exit_on_error("Loopline's worker"):
        worker = app.Worker(
            hostname=host_format(default_nodename(options.hostname)),
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=options.without_heartbeat,
        )
    gc.freeze()
    gc.enable()
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
