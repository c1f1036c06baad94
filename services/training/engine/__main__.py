"""`python -m services.training.engine` builds the compiled layers, as `make setup` does. It never fails: without them
PyTorch trains."""

from __future__ import annotations

from services.training.engine.building import CannotBuild, build


def main() -> None:
    try:
        build()
    except CannotBuild as error:
        print(
            f"Training on a CPU uses PyTorch alone, because {error}. To make it about 1.3 to 20 times as fast, install "
            "a compiler (Debian: apt-get install g++; or .venv/bin/python -m pip install ziglang), then run: make setup"
        )


if __name__ == "__main__":
    main()
