"""A whole update of a network in compiled code: layers, pooling, head, clipping and optimizer.

The loss is compiled too if it is the cross-entropy of classes; another one is torch's.

Without autograd's graph and torch's dispatch between hundreds of small operations, an update of a small network takes a
tenth of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from services.training.engine.layers import CELLS, addresses, checked, dropout_masks
from services.training.engine.library import CrossEntropy, Head, Layers, Update, load

if TYPE_CHECKING:
    from services.training.model import SequenceModel
    from services.training.parts import MiniBatch
    from services.training.spec.fields import Optimizer

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
    if a.batch_norm:
        return "it has batch normalisation"
    return None


Loss = Callable[[Tensor, "MiniBatch", float], tuple[float, Tensor]]
"""Of outputs (rows, output_size) for a batch, a share of the mean loss over rows, and its gradient."""


def by_autograd(mean: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Loss:
    """Any loss: `mean` gives it of outputs, targets and weights."""

    def loss(outputs: Tensor, batch: MiniBatch, share: float) -> tuple[float, Tensor]:
        asked = outputs.detach().requires_grad_()
        found = mean(asked, batch.y, batch.weights) * share
        (gradient,) = torch.autograd.grad(found, asked)
        return float(found.detach()), gradient.contiguous()

    return loss


def cross_entropy(weights: Tensor | None, smoothing: float) -> Loss:
    """That of classes, in compiled code: `metrics.cross_entropies`, whose `weights` are those of classes."""
    compiled = load().cross_entropy
    weights = None if weights is None else weights.float().contiguous()

    def loss(outputs: Tensor, batch: MiniBatch, share: float) -> tuple[float, Tensor]:
        gradient, y = torch.empty_like(outputs), batch.y.long().contiguous()
        call = CrossEntropy(*outputs.shape, outputs.data_ptr(), y.data_ptr())
        call.of_class = None if weights is None else weights.data_ptr()
        of_row = None if batch.weights is None else batch.weights.float().contiguous()
        call.of_row = None if of_row is None else of_row.data_ptr()
        call.smoothing, call.share, call.d_outputs = smoothing, share, gradient.data_ptr()
        compiled(call)
        return call.loss, gradient

    return loss


class Network:
    """A model that is trained by compiled code. Its weights and the optimizer's state stay where torch has them."""

    def __init__(self, model: SequenceModel, optimizer: torch.optim.Optimizer, chosen: Optimizer) -> None:
        """`refusal` is None for the model."""
        self.model, self.optimizer, self.chosen = model, optimizer, chosen
        self.library = load()
        rnn = model.rnn
        self.weights = [*cast("list[Tensor]", rnn._flat_weights), model.head.weight, model.head.bias]
        padded = [-(-weight.numel() // LINE) * LINE for weight in self.weights]
        self.gradient = torch.zeros(sum(padded))
        """Of the last batches, all parts one after the other; and the same as tensors like the weights."""
        parts = torch.split(self.gradient, padded)
        self.gradients = [
            part[: weight.numel()].view_as(weight) for part, weight in zip(parts, self.weights, strict=True)
        ]
        self._tables = [addresses(self.weights), addresses(self.gradients)]
        self._sizes = (ctypes.c_int64 * len(self.weights))(*[weight.numel() for weight in self.weights])
        self._directions = 2 if rnn.bidirectional else 1
        self._room: dict[tuple[int, int], tuple[int, int]] = {}
        self._memory = torch.empty(0)  # kept from batch to batch: pieces of many sizes would scatter what is freed

    def computed(self, batch: MiniBatch, loss: Loss, share: float) -> tuple[Tensor, float]:
        """The outputs for a batch, (samples, output_size) or a row for each valid step, and their loss times `share`.
        The gradient is written to `gradient`."""
        model, rnn = self.model, self.model.rnn
        x, lengths = checked(batch.x, batch.lengths)
        samples, time, size = x.shape
        threads = torch.get_num_threads()
        layers = Layers(
            CELLS[rnn.mode],
            samples,
            time,
            size,
            rnn.hidden_size,
            rnn.num_layers,
            self._directions,
            threads,
            x.data_ptr(),
        )
        head = Head(POOLINGS[model.architecture.pooling], 0, model.head.out_features)
        layers.weights, layers.d_weights = map(ctypes.addressof, self._tables)
        layers.head = ctypes.addressof(head)
        by_step = model.architecture.pooling == "none"
        rows = samples
        if lengths is not None:
            layers.lengths = lengths.data_ptr()
        if by_step:
            rows = samples * time if lengths is None else int(lengths.sum())
        masks = dropout_masks(rnn, x, batch.lengths)
        if masks:
            table = addresses(masks)
            layers.masks, layers.mask_step, layers.mask_row = ctypes.addressof(table), *masks[0].stride()[:2]
        mask = self._head_mask(rows)
        if mask is not None:
            head.mask = mask.data_ptr()
        if batch.static is not None:
            side = batch.static.float().contiguous()
            head.beside, head.side = side.shape[1], side.data_ptr()
        head.weight, head.bias = model.head.weight.data_ptr(), model.head.bias.data_ptr()
        outputs = x.new_empty(rows, model.head.out_features)
        head.outputs = outputs.data_ptr()
        room = self._room_for(layers, batch)
        if len(self._memory) < sum(room):
            self._memory = torch.empty(sum(room))
        layers.saved = self._memory.data_ptr()
        layers.scratch = layers.saved + 4 * room[0]
        self.library.forward(layers)
        found, of_outputs = loss(outputs, batch, share)
        head.d_outputs = of_outputs.data_ptr()
        self.library.backward(layers)
        return outputs, found

    def _head_mask(self, rows: int) -> Tensor | None:
        """Drawn as torch draws it."""
        share = self.model.architecture.head_dropout
        if not share:
            return None
        kept = 1.0 - share
        return torch.empty(rows, self._directions * self.model.rnn.hidden_size).bernoulli_(kept).div_(kept)

    def _room_for(self, layers: Layers, batch: MiniBatch) -> tuple[int, int]:
        """The numbers that are kept for the backward pass, and those for what is in between."""
        shape = (batch.x.shape[0], batch.x.shape[1])
        if batch.lengths is None and shape in self._room:
            return self._room[shape]
        sizes = ctypes.c_int64(), ctypes.c_int64()
        self.library.sizes(layers, *map(ctypes.byref, sizes))
        room = sizes[0].value, sizes[1].value
        if batch.lengths is None:
            self._room[shape] = room
        return room

    def update(self, lr: float, max_value: float | None, max_norm: float | None) -> tuple[float, bool]:
        """Clips the gradient and updates the weights; the norm before clipping, and whether anything was clipped. If
        the norm is not finite, nothing is changed."""
        c = self.chosen
        states = self._states()
        call = Update(OPTIMIZERS[c.name], len(self.weights), 0, torch.get_num_threads())
        call.sizes = ctypes.addressof(self._sizes)
        call.weights, call.gradients = map(ctypes.addressof, self._tables)
        call.lr, call.weight_decay = lr, c.weight_decay
        first: Any = None
        second: Any = None
        if c.name == "adam" or c.name == "adamw":
            call.beta1, call.beta2, call.eps = *c.betas, c.eps
            first, second = (addresses([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq"))
        else:
            call.momentum = c.momentum
            if c.momentum:
                first = addresses([state["momentum_buffer"] for state in states])
            if c.name == "rmsprop":
                call.beta2, call.eps = c.alpha, c.eps
                second = addresses([state["square_avg"] for state in states])
            else:
                call.nesterov = int(c.nesterov)
        if "step" in states[0]:
            steps = addresses([state["step"] for state in states])
            call.steps, call.step = ctypes.addressof(steps), int(states[0]["step"]) + 1
        call.first = None if first is None else ctypes.addressof(first)
        call.second = None if second is None else ctypes.addressof(second)
        call.max_value, call.max_norm = max_value or 0.0, max_norm or 0.0
        self.library.update(call)
        return call.norm, bool(call.clipped)

    def _states(self) -> list[dict[str, Tensor]]:
        """The optimizer's state of each weight; made as torch makes it if there is none."""
        states = [self.optimizer.state[weight] for weight in self.weights]
        if not states[0]:
            for state, weight in zip(states, self.weights, strict=True):
                state.update(self._new_state(weight))
        return states

    def _new_state(self, weight: Tensor) -> dict[str, Tensor]:
        c = self.chosen
        names = ["exp_avg", "exp_avg_sq"] if c.name == "adam" or c.name == "adamw" else []
        if c.name == "rmsprop":
            names.append("square_avg")
        if (c.name == "sgd" or c.name == "rmsprop") and c.momentum:
            names.append("momentum_buffer")
        steps = {} if c.name == "sgd" else {"step": torch.tensor(0.0)}
        return steps | {name: torch.zeros_like(weight) for name in names}
