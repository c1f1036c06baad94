"""Make data/japanese-vowels.npz from the `.ts` files of the aeon wheel. It was run once; the result is committed.

pip download --no-deps aeon==1.6.0 --dest /tmp/aeon
python -m data.convert /tmp/aeon/aeon-1.6.0-py3-none-any.whl
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.training.files import npz

SOURCE = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"
TARGET = Path(__file__).parent / "japanese-vowels.npz"


def utterances(text: str) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Read a `.ts` file: a line an utterance, `channel:channel:...:label`; yields (frames, channels) and the label."""
    _, _, body = text.partition("@data")
    for line in body.split():
        *channels, label = line.split(":")
        yield np.array([channel.split(",") for channel in channels], dtype=np.float32).T, int(label)


def convert(wheel: Path) -> npz.Arrays:
    """Put the training utterances first, then the test ones, in the order of the source."""
    with zipfile.ZipFile(wheel) as archive:
        parts = [list(utterances(archive.read(SOURCE.format(part)).decode())) for part in ("TRAIN", "TEST")]
    rows = [row for part in parts for row in part]
    lengths = np.array([len(frames) for frames, _ in rows], dtype=np.int64)
    x = np.zeros((len(rows), lengths.max(), rows[0][0].shape[1]), dtype=np.float32)
    for row, (frames, _) in zip(x, rows, strict=True):
        row[: len(frames)] = frames
    split = np.repeat(
        np.array([npz.SPLITS.index("train"), npz.SPLITS.index("test")], dtype=np.int8), list(map(len, parts))
    )
    return npz.Arrays(x=x, lengths=lengths, y=np.array([label for _, label in rows], dtype=np.int64), split=split)


if __name__ == "__main__":
    npz.write(TARGET, convert(Path(sys.argv[1])), compress=True)
    print(npz.summarise(npz.read(TARGET)))
