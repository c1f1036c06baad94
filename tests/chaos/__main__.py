"""`make chaos SECONDS=600 SEED=7`, which is `python -m tests.chaos --seconds 600 --seed 7 [--keep]`."""

from __future__ import annotations

import argparse
import random
import signal
import sys

from tests.chaos import report
from tests.chaos.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="A Loopline under random faults.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults are done (600)")
    parser.add_argument("--seed", type=int, default=None, help="of every random choice; by default another each time")
    parser.add_argument("--keep", action="store_true", help="leave the folder also when all is well")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # both raise KeyboardInterrupt
    return storm(options.seconds, seed, keep=options.keep)


def storm(seconds: float, seed: int, *, keep: bool) -> int:
    """One run, told as it goes. Returns the exit status: 0 when every invariant holds."""
    with World(seed, say) as world:
        say(f"Chaos for {seconds:g} s with seed {seed}, in {world.folder}")
        world.keep = True  # for the time being: a run that is broken off is worth a look
        outcome = world.run(seconds)
        for line in report.lines(outcome):
            say(line)
        (world.folder / "report.txt").write_text("\n".join(report.lines(outcome)) + "\n")
        world.keep = keep or not outcome.passed
        if world.keep:
            say(f"Everything lies in {world.folder}: logs, ticks, faults, files and the database.")
        say(f"seed {seed}")
    return 0 if outcome.passed else 1


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
