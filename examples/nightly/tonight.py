"""Writes speakers.npz: everything that was recorded up to a night. Stands for an export of your own.

    python tonight.py 2026-11-27

Pretends that the Japanese Vowels (recorded.npz) come in over fifteen days, two utterances of each of the nine speakers
a day. The first night that it is run for is the first of them. The 370 test utterances are there from the beginning,
marked as such: nobody trains on them, so every night's model is judged by the same ones.
"""

import sys
from datetime import date
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
A_DAY = 2  # utterances of each speaker
TEST = 2  # as `split` marks it

night = date.fromisoformat(sys.argv[1])
first = HERE / "first-night"
if not first.exists():
    first.write_text(f"{night}\n")
days = (night - date.fromisoformat(first.read_text().strip())).days + 1

with np.load(HERE / "recorded.npz") as recorded:
    arrays = dict(recorded)
number = np.array([np.sum(arrays["y"][:row] == speaker) for row, speaker in enumerate(arrays["y"])])  # of its speaker
kept = (arrays["split"] == TEST) | (number < days * A_DAY)
np.savez_compressed(HERE / "speakers.npz", **{name: array[kept] for name, array in arrays.items()})
print(f"Night {days}: {np.sum(kept & (arrays['split'] != TEST))} utterances to train on.")
