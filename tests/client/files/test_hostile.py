"""What nobody should have to read is refused with a sentence, or read right, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from loopline.files import formats
from loopline.files.problems import FileInvalid

from tests.client.files.hostile import FILES, Hostile

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("hostile", FILES, ids=lambda hostile: hostile.name)
def test_a_hostile_file_is_refused_with_a_sentence_or_read_right(hostile: Hostile, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    work = inner / "work"
    work.mkdir(parents=True)
    path = hostile.write(inner)
    before = sorted(tmp_path.rglob("*"))
    if hostile.says:
        with pytest.raises(FileInvalid) as caught:
            formats.read(path, work)
        assert str(caught.value.problems[0]).startswith(hostile.says)
        assert str(caught.value.problems[0]).rstrip()[-1] in ".`"  # a sentence, which ends with a way out
    else:
        table = formats.read(path, work)
        assert tuple(table.data.slice(0, len(hostile.rows)).to_pylist()) == hostile.rows
        assert set(hostile.notes) <= set(table.notes)
    assert sorted(tmp_path.rglob("*")) == before


# Reads a file in a process that may have 400 MB of addresses more than it has after its imports.
LIMITED = """
import resource, sys
class WithoutPandas:  # the service has none, and pyarrow would import it
    @staticmethod
    def find_spec(name, *_):
        if name == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, WithoutPandas)
from pathlib import Path
from loopline.files import formats
from loopline.files.problems import FileInvalid
import pyarrow.csv, pyarrow.json, pyarrow.parquet
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
most = status("VmSize") + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
before = status("VmRSS")
try:
    table = formats.read(Path(sys.argv[1]), Path(sys.argv[2]))
    print("rows", table.data.num_rows)
except FileInvalid as error:
    print(error.problems[0])
print((status("VmHWM") - before) >> 20)
"""


def read_limited(path: Path, work: Path) -> tuple[str, int]:
    """The first problem, or the rows, and the resident MiB that reading took at most."""
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(work)],
        env={"PYTHONPATH": str(ROOT / "client"), "PATH": "", "MALLOC_ARENA_MAX": "2"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(work.iterdir()) == []
    *said, megabytes = done.stdout.splitlines()
    return "\n".join(said), int(megabytes)


def test_a_line_of_200_mb_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"1," * (1 << 19))
    said, megabytes = read_limited(path, tmp_path / "work")
    assert said.startswith("line 1: the line has more than ")
    assert megabytes < 120


@pytest.mark.parametrize(
    "name", ["bomb.csv.gz", "bomb.zip", "lying_rows.parquet", "very_deep.jsonl", "lying_footer.parquet"]
)
def test_a_bomb_takes_little_memory(name: str, tmp_path: Path) -> None:
    hostile = next(one for one in FILES if one.name == name)
    said, megabytes = read_limited(hostile.write(tmp_path), tmp_path / "work")
    assert said.startswith(hostile.says)
    assert megabytes < 120


def test_a_large_table_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    block = b"".join(b"%d,%d.25,word\n" % (number, number) for number in range(100_000))
    with path.open("wb") as file:
        file.write(b"a,b,c\n")
        for _ in range(40):
            file.write(block)
    said, megabytes = read_limited(path, tmp_path / "work")
    assert said == "rows 4000000"
    assert megabytes < 220  # the table has 145 MB in its file, and a block takes less than 100
