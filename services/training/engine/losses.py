"""The losses that compiled code computes: all that a spec may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from services.training.engine import library

if TYPE_CHECKING:
    from services.training.parts import MiniBatch
    from services.training.spec import fields

KINDS = {"cross_entropy": 0, "bce": 1, "mse": 2, "mae": 3, "huber": 4, "pinball": 5}


class Loss:
    """The mean loss over rows, as the tasks define it, each times its weight if there are weights."""

    def __init__(self, chosen: fields.Loss, weights: Tensor | None, quantiles: Sequence[float] = ()) -> None:
        """`weights` are those of classes, or of a yes of each label. Of `quantiles` each target has an output."""
        self.call = library.Loss(KINDS["pinball" if quantiles else chosen.name], levels=len(quantiles))
        self.call.smoothing = getattr(chosen, "label_smoothing", 0.0)
        self.call.delta = getattr(chosen, "delta", 0.0)
        self.weights = None if weights is None else weights.float().contiguous()
        self._levels = torch.tensor(quantiles)
        self.call.weights = None if self.weights is None else self.weights.data_ptr()
        self.call.level = self._levels.data_ptr()
        self._targets = torch.int64 if chosen.name == "cross_entropy" else torch.float32
        self._read: tuple[Tensor | None, ...] = ()

    def ask(self, batch: MiniBatch, outputs: Tensor, share: float) -> None:
        """Lets `call` stand for a share of the loss of outputs (rows, size), which need not be there yet. It is good
        until the next one is asked for."""
        y, of_row, call = batch.y.to(self._targets).contiguous(), batch.weights, self.call
        call.rows, call.size = outputs.shape
        call.stride = y.stride(0)
        call.outputs, call.targets, call.share = outputs.data_ptr(), y.data_ptr(), share
        if of_row is not None:
            of_row = of_row.float().contiguous()
            call.of_row = of_row.data_ptr()
        self._read = (y, of_row, outputs)
