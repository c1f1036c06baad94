"""What the version before wrote: made by write.py, read by test_before.py."""

from pathlib import Path

COMMIT = "70326c1"
"""The last commit before the modules moved into folders."""
ARCHIVE = Path(__file__).with_name("written.tar.xz")
