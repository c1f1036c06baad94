"""The readers of `loopline.files`, beside what pyarrow alone reads from the same file, in turns.

Ours also looks for the encoding, the delimiter, the header and the types in the whole file, and writes what it read to
a file that is mapped. pyarrow has no reader for `.ts` and text: there it reads the same cells as a CSV.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.json as pj
import pyarrow.parquet as pq
from loopline.files import formats

ROWS, TURNS, LARGE_MB = 1_000_000, 3, 500
STEPS = 60


def table(rows: int) -> pa.Table:
    """As recordings look: whose, when, two measurements, a count and a word."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": np.arange(rows) // 100,
            "time": pa.array(np.datetime64("2024-01-01T00:00:00", "s") + np.arange(rows)),
            "a": rng.normal(size=rows).round(5),
            "b": rng.normal(size=rows).round(5),
            "count": rng.integers(0, 1000, rows),
            "label": pa.array(np.array(["walk", "run", "sit"])[rng.integers(0, 3, rows)]),
        }
    )


def write_csv(path: Path) -> None:
    csv.write_csv(table(ROWS), path)


def write_parquet(path: Path) -> None:
    pq.write_table(table(ROWS), path)


def write_jsonl(path: Path) -> None:
    columns = table(ROWS).cast(pa.schema([*table(1).schema.set(1, pa.field("time", pa.string()))])).to_pydict()
    with path.open("w") as file:
        for values in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")


def write_ts(path: Path) -> None:
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("@problemName x\n@univariate true\n@classLabel true a b\n@data\n")
        for number in range(ROWS // STEPS):
            values = rng.normal(size=STEPS).round(4).tolist()
            file.write(",".join(map(repr, values)) + ":" + "ab"[number % 2] + "\n")


def write_text(path: Path) -> None:
    with path.open("w") as file:
        for number in range(ROWS):
            file.write(f"this is the text number {number:,} of many, and it is not long\tclass {number % 7}\n")


def bare_ts(path: Path) -> pa.Table:
    names = [str(number) for number in range(STEPS)]
    return csv.read_csv(path, csv.ReadOptions(column_names=names, skip_rows=4))


def bare_text(path: Path) -> pa.Table:
    return csv.read_csv(
        path, csv.ReadOptions(column_names=["a", "b"]), csv.ParseOptions(delimiter="\t", quote_char=False)
    )


FORMATS: dict[str, tuple[Callable[[Path], None], Callable[[Path], pa.Table], float | None]] = {
    "csv": (write_csv, csv.read_csv, 0.5),
    "parquet": (write_parquet, pq.read_table, 0.5),
    "jsonl": (write_jsonl, pj.read_json, 0.5),
    "ts": (write_ts, bare_ts, 0.5),
    "txt": (write_text, bare_text, None),
}
"""By the ending of the name: who writes the file, who reads it without us, and the ratio that is asked for."""


def compared(name: str, folder: Path) -> dict[str, Any]:
    write, bare, least = FORMATS[name]
    path = folder / f"file.{name}"
    write(path)
    took: dict[str, list[float]] = {"ours": [], "bare": []}
    rows = 0
    for _ in range(TURNS):
        for who in took:
            began = time.perf_counter()
            if who == "ours":
                rows = formats.read(path, folder).data.num_rows
            else:
                bare(path)
            took[who].append(time.perf_counter() - began)
    ours, other = (min(took[who]) for who in ("ours", "bare"))
    size = path.stat().st_size
    path.unlink()
    return {
        "what": f"rows a second of a .{name} of {size / 1e6:.0f} MB, beside pyarrow's bare read",
        "ours": f"{rows / ours:,.0f}/s",
        "other": f"{rows / other:,.0f}/s",
        "ratio": other / ours,
        "at_least": least,
    }


PROBE = """
import sys
from pathlib import Path
from loopline.files import formats
import pyarrow.csv as csv
if sys.argv[1] == "ours":
    found = formats.read(Path(sys.argv[2]), Path(sys.argv[3]))
else:
    found = csv.read_csv(sys.argv[2])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def memory(folder: Path) -> dict[str, Any]:
    """Peak resident memory of a process that reads a large CSV."""
    path = folder / "large.csv"
    part = folder / "part.csv"
    csv.write_csv(table(ROWS), part)
    rows = part.read_bytes().split(b"\n", 1)
    with path.open("wb") as file:
        file.write(rows[0] + b"\n")
        while file.tell() < LARGE_MB * 1_000_000:
            file.write(rows[1])
    peaks = {}
    for who in ("ours", "bare"):
        command = [sys.executable, "-c", PROBE, who, str(path), str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[who] = int(done.stdout) / 1024
    return {
        "what": f"peak memory to read a CSV of {path.stat().st_size / 1e6:.0f} MB, beside pyarrow's bare read",
        "ours": f"{peaks['ours']:.0f} MiB",
        "other": f"{peaks['bare']:.0f} MiB",
        "ratio": peaks["bare"] / peaks["ours"],
        "at_least": 2.0,
    }


def rows() -> Iterator[dict[str, Any]]:
    """Each reader, and the memory of a large file."""
    with tempfile.TemporaryDirectory() as name:
        for form in FORMATS:
            yield compared(form, Path(name))
        yield memory(Path(name))
