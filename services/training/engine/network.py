"""A whole update of a network in compiled code: layers, pooling, batch normalisation, head, loss, clipping, optimizer.

Without autograd's graph and torch's dispatch between hundreds of small operations, an update of a small network takes a
tenth of the time. For the same reason all that stays the same from update to update is prepared once.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from services.training.engine import library
from services.training.engine.layers import CELLS, addresses, checked, dropout_masks

if TYPE_CHECKING:
    from services.training.engine.losses import Loss
    from services.training.model import SequenceModel
    from services.training.parts import MiniBatch
    from services.training.spec.fields import Optimizer, Training

POOLINGS = {"final": 0, "last": 1, "mean": 2, "max": 3, "none": 4}
OPTIMIZERS = {"adam": 0, "adamw": 1, "sgd": 2, "rmsprop": 3}
LINE = 16
"""Numbers of a cache line."""


def refusal(model: SequenceModel) -> str | None:
    """What of a network is not in compiled code, but for its recurrent layers; None if all of it is."""
    a = model.architecture
    if len(model.embeddings):
        return "it has vectors of words"
    if a.pooling not in POOLINGS:
        return f"its pooling is {a.pooling}"
    return None


class Made(NamedTuple):
    """What came of an update."""

    loss: float
    norm: float
    """Of the gradient before clipping; NaN if the loss is not finite. If it is not finite, nothing was changed."""
    clipped: int
    """1 if it was, else 0."""


class Network:
    """A model that is trained by compiled code. Its weights and the optimizer's state stay where torch has them."""

    def __init__(self, model: SequenceModel, optimizer: torch.optim.Optimizer, training: Training, loss: Loss) -> None:
        """`refusal` is None for the model."""
        self.optimizer, self.chosen, self.loss = optimizer, training.optimizer, loss
        self.train = library.load().train
        self.architecture, self.rnn, self.size = model.architecture, model.rnn, model.head.out_features
        self.weights = [*cast("list[Tensor]", self.rnn._flat_weights), model.head.weight, model.head.bias]
        if model.norm is not None:
            self.weights += [model.norm.weight, model.norm.bias]
        padded = [-(-weight.numel() // LINE) * LINE for weight in self.weights]
        self.gradient = torch.zeros(sum(padded))
        """Of the last batches, all parts one after the other."""
        parts = torch.split(self.gradient, padded)
        self._tables = [addresses(self.weights), addresses(parts)]
        self._sizes = (ctypes.c_int64 * len(self.weights))(*[weight.numel() for weight in self.weights])
        self._head = library.Head(POOLINGS[self.architecture.pooling], 0, self.size)
        self._head.weight, self._head.bias = model.head.weight.data_ptr(), model.head.bias.data_ptr()
        if model.norm is not None:
            self._norm = _call_of_norm(model.norm, parts[-2:])
            self._head.norm = ctypes.addressof(self._norm)
        self._layers = self._call_of_layers()
        self._calls = ctypes.addressof(self._layers), ctypes.addressof(loss.call)
        self._update = library.Update(OPTIMIZERS[self.chosen.name], len(self.weights))
        self._update.sizes = ctypes.addressof(self._sizes)
        self._update.weights, self._update.gradients = map(ctypes.addressof, self._tables)
        self._update.max_value, self._update.max_norm = training.max_grad_value or 0.0, training.max_grad_norm or 0.0
        _set_options(self._update, self.chosen)
        self._state: dict[str, Tensor] | None = None
        self._tables_of_state: list[Any] = []
        self._memory = torch.empty(0)  # kept from batch to batch: pieces of many sizes would scatter what is freed

    def _call_of_layers(self) -> library.Layers:
        """What is the same for every batch."""
        rnn = self.rnn
        directions = 2 if rnn.bidirectional else 1
        call = library.Layers(CELLS[rnn.mode], 0, 0, rnn.input_size, rnn.hidden_size, rnn.num_layers, directions)
        call.weights, call.d_weights = map(ctypes.addressof, self._tables)
        call.head = ctypes.addressof(self._head)
        return call

    def update(self, batches: Sequence[MiniBatch]) -> tuple[Tensor, Made]:
        """Makes one update by the gradient of all batches together. The outputs, (samples, output_size) or a row for
        each valid step, and what came of it."""
        call = self._prepared()
        if len(batches) == 1:
            outputs = self._compute(batches[0], 1.0, ctypes.addressof(call))
            return outputs, Made(self.loss.call.loss, call.norm, call.clipped)
        rows = sum(len(batch.y) for batch in batches)
        loss, gradient, answers = 0.0, torch.zeros_like(self.gradient), []
        for batch in batches:
            answers.append(self._compute(batch, len(batch.y) / rows, None))
            loss += self.loss.call.loss
            gradient += self.gradient
        self.gradient.copy_(gradient)
        if math.isfinite(loss):
            library.load().update(call)
        return torch.cat(answers), Made(loss, call.norm, call.clipped)

    def _compute(self, batch: MiniBatch, share: float, update: int | None) -> Tensor:
        """The outputs for a batch. Of their loss times `share`, which is in `loss`, the gradient is written to
        `gradient`. With the address of an `update` the weights are updated by it."""
        x, lengths = checked(batch.x, batch.lengths)
        call, head = self._layers, self._head
        call.batch, call.time, _ = x.shape
        call.threads = torch.get_num_threads()
        call.x = x.data_ptr()
        call.lengths = None if lengths is None else lengths.data_ptr()
        masks = dropout_masks(self.rnn, x, batch.lengths)
        table = addresses(masks)
        if masks:
            call.masks, call.mask_step, call.mask_row = ctypes.addressof(table), *masks[0].stride()[:2]
        rows = batch.y.shape[0]
        mask = self._head_mask(rows)
        if mask is not None:
            head.mask = mask.data_ptr()
        if batch.static is not None:
            side = batch.static.float().contiguous()
            head.beside, head.side = side.shape[1], side.data_ptr()
        outputs = torch.empty(rows, self.size)
        head.outputs = outputs.data_ptr()
        self.loss.ask(batch, outputs, share)
        while (needed := self._called(update)) > len(self._memory):
            self._memory = torch.empty(needed)
        if needed < 0:
            raise ValueError("there must be a target for each row of outputs")
        return outputs

    def _called(self, update: int | None) -> int:
        needed: int = self.train(*self._calls, update, self._memory.data_ptr(), self._memory.shape[0])
        return needed

    def _head_mask(self, rows: int) -> Tensor | None:
        """Drawn as torch draws it."""
        share = self.architecture.head_dropout
        if not share:
            return None
        kept = 1.0 - share
        width = self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1)
        return torch.empty(rows, width).bernoulli_(kept).div_(kept)

    def _prepared(self) -> library.Update:
        """The update that is to be made. Its norm is NaN until it is known."""
        call = self._update
        if self._state is None or self._state is not self.optimizer.state[self.weights[0]]:
            self._find_state()
        call.threads = torch.get_num_threads()
        call.lr = self.optimizer.param_groups[0]["lr"]
        call.norm = math.nan
        return call

    def _find_state(self) -> None:
        """Where the optimizer's state of each weight is; made as torch makes it if there is none. A checkpoint that is
        loaded puts others in its place."""
        states = [self.optimizer.state[weight] for weight in self.weights]
        if not states[0]:
            for state, weight in zip(states, self.weights, strict=True):
                state.update(_new_state(self.chosen, weight))
        first, second = ("exp_avg", "exp_avg_sq") if "exp_avg" in states[0] else ("momentum_buffer", "square_avg")
        self._tables_of_state = [
            addresses([state[name] for state in states]) if name in states[0] else None
            for name in (first, second, "step")
        ]
        self._update.first, self._update.second, self._update.steps = (
            None if table is None else ctypes.addressof(table) for table in self._tables_of_state
        )
        self._state = states[0]


def _call_of_norm(norm: nn.BatchNorm1d, gradients: Sequence[Tensor]) -> library.Norm:
    running = cast("tuple[Tensor, ...]", (norm.running_mean, norm.running_var, norm.num_batches_tracked))
    tensors = (norm.weight, norm.bias, *gradients, *running)
    return library.Norm(*[tensor.data_ptr() for tensor in tensors], norm.momentum, norm.eps)


def _set_options(call: library.Update, c: Optimizer) -> None:
    call.weight_decay = c.weight_decay
    if c.name == "adam" or c.name == "adamw":
        call.beta1, call.beta2, call.eps = *c.betas, c.eps
        return
    call.momentum = c.momentum
    if c.name == "rmsprop":
        call.beta2, call.eps = c.alpha, c.eps
    else:
        call.nesterov = int(c.nesterov)


def _new_state(c: Optimizer, weight: Tensor) -> dict[str, Tensor]:
    names = ["exp_avg", "exp_avg_sq"] if c.name == "adam" or c.name == "adamw" else []
    if c.name == "rmsprop":
        names.append("square_avg")
    if (c.name == "sgd" or c.name == "rmsprop") and c.momentum:
        names.append("momentum_buffer")
    steps = {} if c.name == "sgd" else {"step": torch.tensor(0.0)}
    return steps | {name: torch.zeros_like(weight) for name in names}
