"""One spec trained without faults, as a trainer would: `python -m tests.chaos.twin ORDER.json EVENTS.jsonl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    from services.training import messages, run

    run.prepare_process(1)
    run.warm(run.device_of("cpu"))  # as a trainer does before its order comes
    order = messages.Order(**json.loads(Path(sys.argv[1]).read_text()))
    with Path(sys.argv[2]).open("w") as out:
        for event in run.events(order):
            out.write(json.dumps(messages.to_json(event)) + "\n")


if __name__ == "__main__":
    main()
