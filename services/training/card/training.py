"""How a model was trained."""

from __future__ import annotations

from loopline.prediction import smoothing

from services.training.card import names as files
from services.training.card.facts import Facts
from services.training.card.wording import Lines, Pictures, counted, picture


def training(facts: Facts, drawn: Pictures) -> Lines:
    t, model = facts.spec["training"], facts.model
    best = f" The weights are those of epoch {model['best_epoch']:,}." if model["best_epoch"] is not None else ""
    stopped = " Early stopping ended it." if model["stopped_early"] else ""
    bounds = {"norm": t["max_grad_norm"], "elements": t.get("max_grad_value")}
    clipped = ", ".join(f"gradient {what} clipped to {bound:g}" for what, bound in bounds.items() if bound is not None)
    how = (
        f"{counted(model['epochs'], 'epoch')}, batches of {t['batch_size']:,}, loss {t['loss']['name']}, optimizer "
        f"{t['optimizer']['name']} with learning rate {t['optimizer']['lr']:g}, {clipped or 'gradients not clipped'}, "
        f"seed {t['seed']}."
    )
    found = ["## How it was trained", "", how.replace("_", " ") + stopped + best, ""]
    if (said := smoothing.sentence(t["loss"], len(model["classes"] or ()))) is not None:
        found += [said, ""]
    if files.LOSS in drawn:
        found += picture("Loss by epoch", files.LOSS)
    if files.GRADIENTS in drawn:
        found += picture("Gradient norm by epoch", files.GRADIENTS)
    return found
