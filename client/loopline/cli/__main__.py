"""`python -m loopline.cli` is the `loopline` command."""

from __future__ import annotations

from loopline.cli.app import main

if __name__ == "__main__":
    main()
