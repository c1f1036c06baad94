"""Make data/sea.csv from the wheel of statsmodels. It was run once; the result is committed.

pip download --no-deps statsmodels==0.14.4 --dest /tmp/sea
python -m data.convert_sea /tmp/sea/statsmodels-0.14.4-*.whl

The source has one row for each year. Here a row is a month.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path

SOURCE = "statsmodels/datasets/elnino/elnino.csv"
TARGET = Path(__file__).parent / "sea.csv"


def convert(wheel: Path) -> None:
    """One row for each month, in their order."""
    with zipfile.ZipFile(wheel) as archive:
        [_, *years] = csv.reader(io.StringIO(archive.read(SOURCE).decode("ascii")))
    with TARGET.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("month", "celsius"))
        for year, *values in years:
            writer.writerows((f"{year}-{month:02}-01", value) for month, value in enumerate(values, 1))


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
