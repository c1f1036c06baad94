"""The Celery app of the workers: `python -m worker.start worker.app`.

`python -m worker` starts it, once for each GPU; see worker/fleet.py.

Celery carries doorbells and keeps processes alive, nothing else. A doorbell is acknowledged as soon as it is taken: a
job is never tied to a message, so no timeout of the broker can start it twice and no lost message can lose it. Neither
the main process nor its pool children ever import torch: a child that forks after torch ran threads hangs for ever.
"""

from __future__ import annotations

from worker.pool import create_app

app = create_app()
