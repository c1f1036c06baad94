"""Text that a language model writes: each character or word is drawn from what the model answers to those before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from loopline.preprocessing.texts import FIRST, UNKNOWN, Vocabulary
from loopline.preprocessing.tokens import LINE_BREAK, tokens

from services.text import plain_lines
from services.training.loop import Run
from services.training.model import SequenceModel

STEPS = {"characters": 300, "words": 80}
"""Of the sample in a result, by what the model writes."""
TEMPERATURE = 0.8


@torch.no_grad()
def sample(
    model: SequenceModel, vocabulary: Vocabulary, start: str, steps: int, temperature: float = 1.0, seed: int = 0
) -> str:
    """So many characters or words that follow after `start`, without it. The same seed draws the same ones.

    The logits are divided by the `temperature`: below 1 what is likely becomes likelier. What the vocabulary does not
    have is never drawn. An empty start is the beginning of a line.

    Raises ValueError where the temperature is not above 0, or there are steps below 0.
    """
    if not temperature > 0.0 or steps < 0:
        raise ValueError("the temperature must be above 0, and the steps 0 or more")
    place = vocabulary.places()
    read = [
        place.get(entry, UNKNOWN)
        for line in start.split(LINE_BREAK)
        for entry in (LINE_BREAK, *tokens(line, vocabulary.by, lowercase=vocabulary.lowercase))
    ]
    generator = torch.Generator().manual_seed(seed)
    device, was_training = model.head.weight.device, model.training
    model.eval()
    found: list[str] = []
    outputs, state = model.continued(_step(read, device), None, None, ())
    for _ in range(steps):
        logits = outputs[-1].double().cpu() / temperature  # (classes,): what is unknown, and the entries
        logits[0] = -torch.inf
        drawn = int(torch.multinomial(logits.softmax(dim=0), 1, generator=generator))
        found.append(vocabulary.entries[drawn - 1])
        outputs, state = model.continued(_step([drawn + FIRST - 1], device), None, None, state)
    model.train(was_training)
    return joined(found, vocabulary)


def joined(entries: Sequence[str], vocabulary: Vocabulary) -> str:
    """Characters or words as a text: words with a space between two, but not beside a line break."""
    if vocabulary.by == "characters":
        return "".join(entries)
    return " ".join(entries).replace(f" {LINE_BREAK}", LINE_BREAK).replace(f"{LINE_BREAK} ", LINE_BREAK)


def of_result(run: Run) -> dict[str, Any]:
    """The sample in a result: text of the best weights from the beginning of a line on, without hidden characters."""
    vocabulary, seed = run.data.preprocessing.text, run.training.seed
    assert vocabulary is not None, "continuation.py gives one"  # noqa: S101
    steps = STEPS[vocabulary.by]
    text = sample(run.model, vocabulary, "", steps, TEMPERATURE, seed)
    return {"text": plain_lines(text), "start": "", "steps": steps, "temperature": TEMPERATURE, "seed": seed}


def _step(codes: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(codes, dtype=torch.float32, device=device)[None, :, None]
