"""Variable length: batches bucketed by length, padded and gathered, beside packed batches in random order.

The packed side is what torch's documentation shows: pack_padded_sequence with enforce_sorted=False, the result taken
from the final hidden state. Both sides train the same network on the same 1,000 sequences of 10 to 200 steps. The loss
over all samples at the same weights is shown to be the same either way.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES, LONGEST, FEATURES, HIDDEN, BATCH, EPOCHS = 1000, 200, 12, 128, 32, 3


def arrays():  # type: ignore[no-untyped-def]
    """Log-uniform lengths, as utterances, sessions and traces have them: most short, some long."""
    import numpy as np

    from services.training.files.npz import Arrays

    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(10), np.log(LONGEST), SAMPLES)).astype(np.int64)
    x = rng.standard_normal((SAMPLES, LONGEST, FEATURES), dtype=np.float32)
    x[np.arange(LONGEST) >= lengths[:, None]] = 0.0
    return Arrays(x=x, lengths=lengths, y=rng.integers(2, size=SAMPLES))


def bucketed_run(cell: str, bidirectional: bool):  # type: ignore[no-untyped-def]
    from services.training.data import prepare
    from services.training.files import npz
    from services.training.loop import Run
    from services.training.spec import check_data, parse

    data = arrays()
    document = {
        "architecture": {"cell": cell, "hidden_size": HIDDEN, "bidirectional": bidirectional, "pooling": "final"},
        "training": {"epochs": 1000, "batch_size": BATCH},
        "data": {"dataset": "x", "split": {"validation": 0.0, "test": 0.0}},
    }
    spec = check_data(parse(document), npz.summarise(data))
    return Run(spec, prepare(data, spec))


def bucketed(cell: str, bidirectional: bool) -> Iterator[float]:
    from services.training.loop import fit

    began = time.perf_counter()
    for epoch in fit(bucketed_run(cell, bidirectional)):
        if epoch is not None:
            yield time.perf_counter() - began
            began = time.perf_counter()


def packed(cell: str, bidirectional: bool) -> Iterator[float]:
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence

    from services.training.data import order_of

    data = arrays()
    x, y, lengths = torch.from_numpy(data.x), torch.from_numpy(data.y), torch.from_numpy(data.lengths)
    rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](FEATURES, HIDDEN, batch_first=True, bidirectional=bidirectional)
    head = nn.Linear(HIDDEN * (2 if bidirectional else 1), 2)
    parameters = [*rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters)
    epoch = 0
    while True:
        began = time.perf_counter()
        epoch += 1
        for rows in order_of(epoch, seed=0, samples=SAMPLES, batch_size=BATCH).batches:
            index = torch.from_numpy(rows)
            sequences = pack_padded_sequence(x[index], lengths[index], batch_first=True, enforce_sorted=False)
            optimizer.zero_grad()
            state = rnn(sequences)[1]
            hidden = state[0] if cell == "lstm" else state
            final = torch.cat((hidden[0], hidden[1]), dim=1) if bidirectional else hidden[0]
            loss = nn.functional.cross_entropy(head(final), y[index])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            loss.item()
        yield time.perf_counter() - began


def expected_loss(cell: str, bidirectional: bool) -> tuple[float, float]:
    """The mean loss over an epoch at fixed weights, in bucketed batches and in random ones."""
    import torch

    from services.training.data import batches_of, order_of

    run = bucketed_run(cell, bidirectional)
    losses = []
    for lengths in (run.lengths, None):
        order = order_of(1, seed=0, samples=SAMPLES, batch_size=BATCH, lengths=lengths)
        with torch.no_grad():
            batches = batches_of(run.train_part, order, run.device)
            total = sum(float(run.loss(run.model(b.x, b.lengths), b.y)) * len(b.y) for b in batches)
        losses.append(total / SAMPLES)
    return losses[0], losses[1]


def measure(cell: str, bidirectional: bool) -> dict[str, float]:
    import torch

    torch.set_flush_denormal(True)
    runs = {"ours": bucketed(cell, bidirectional), "other": packed(cell, bidirectional)}
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for turn in range(EPOCHS + 1):
        for kind, run in runs.items():
            seconds = next(run)
            if turn:
                times[kind].append(seconds)
    first, second = expected_loss(cell, bidirectional)
    fastest = {kind: min(values) for kind, values in times.items()}
    return fastest | {"loss_bucketed": first, "loss_random": second}


def rows() -> list[dict[str, object]]:
    from services.training.environment import ENVIRONMENT

    found: list[dict[str, object]] = []
    for cell, bidirectional in itertools.product(("lstm", "gru"), (False, True)):
        command = [sys.executable, __file__, "--measure", cell, "both" if bidirectional else "one"]
        environment = dict(os.environ, PYTHONPATH=str(ROOT)) | ENVIRONMENT
        result = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        assert abs(result["loss_bucketed"] - result["loss_random"]) < 1e-6, result
        way = "bidirectional " if bidirectional else ""
        found.append(
            {
                "what": f"10 to 200 steps, {way}{cell.upper()} 128, batch 32: bucketed against packed in random order",
                "ours": f"{result['ours']:.2f} s/epoch",
                "other": f"{result['other']:.2f} s/epoch",
                "ratio": result["other"] / result["ours"],
                "at_least": 2.0 if (cell, bidirectional) == ("lstm", False) else None,
            }
        )
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3] == "both")))
    else:
        for row in rows():
            print(row)
