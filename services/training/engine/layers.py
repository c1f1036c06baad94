"""The layers of a torch.nn recurrent network, computed by recurrent.cpp, with gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from services.training.engine.library import Layers, load

CELLS = {"RNN_TANH": 0, "RNN_RELU": 1, "LSTM": 2, "GRU": 3}
NUMBERS_AT_ONCE = 1 << 24
NUMBERS_OF_A_UNIT = 8
"""That are kept of a unit at a time step, about: its gates, its states and its output."""
State = tuple[Tensor, ...]
Computed = tuple[Tensor | None, Tensor, State]


def recur(rnn: nn.RNNBase, x: Tensor, lengths: Tensor | None, state: State = (), *, outputs: bool = True) -> Computed:
    """Outputs (batch, time, width) with zeros after each end, or None if they are not wanted; the top layer's states
    (batch, width) after the last step of each direction; and the states of all layers, (layers * directions, batch,
    hidden_size) each, without a gradient and only if `state` is given or x is one-directional.

    x (batch, time, channels) in float32; lengths (batch,) in int64, of at least 1. `state` is what the layers begin
    from, zeros if it is (). No step after an end is computed. The gradient can be asked for once. Without one, a few
    sequences are computed at a time. Raises what `checked` does.
    """
    x, lengths = checked(x, lengths)
    if not torch.is_grad_enabled() and len(x) > (rows := _rows_at_once(rnn, x.shape[1])):
        return _in_parts(rnn, x, lengths, state, outputs, rows)
    masks = dropout_masks(rnn, x, lengths)
    weights = cast("list[Tensor]", rnn._flat_weights)
    answered, final, *after = _Recurrence.apply(  # type: ignore[no-untyped-call]
        x, lengths, masks, rnn, [each.contiguous() for each in state], outputs, *weights
    )
    return answered, final, tuple(after)


def checked(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Steps and lengths as compiled code reads them. Raises TypeError for another precision than float32, ValueError
    where there are no steps, or not so many as lengths say."""
    if x.dtype != torch.float32:
        raise TypeError(f"compiled layers compute in float32, and this is {x.dtype}")
    if not x.numel():
        raise ValueError("there are no steps")
    if lengths is not None:
        lengths = lengths.long().contiguous()
        shortest, longest = (int(each) for each in lengths.aminmax())
        if len(lengths) != len(x) or shortest < 1 or longest > x.shape[1]:
            raise ValueError(f"lengths must be from 1 to {x.shape[1]}, one for each of {len(x)} sequences")
    return x.contiguous(), lengths


def _rows_at_once(rnn: nn.RNNBase, time: int) -> int:
    """How many sequences are computed at a time if nothing has to be kept for a gradient."""
    directions = 2 if rnn.bidirectional else 1
    return max(1, NUMBERS_AT_ONCE // (time * rnn.num_layers * directions * rnn.hidden_size * NUMBERS_OF_A_UNIT))


def _in_parts(rnn: nn.RNNBase, x: Tensor, lengths: Tensor | None, state: State, outputs: bool, rows: int) -> Computed:
    parts = []
    for begin in range(0, len(x), rows):
        chosen = slice(begin, begin + rows)
        before = tuple(each[:, chosen] for each in state)
        parts.append(recur(rnn, x[chosen], None if lengths is None else lengths[chosen], before, outputs=outputs))
    answered, final, after = zip(*parts, strict=True)
    joined = torch.cat([each for each in answered if each is not None]) if outputs else None
    return joined, torch.cat(final), tuple(torch.cat(each, dim=1) for each in zip(*after, strict=True))


def dropout_masks(rnn: nn.RNNBase, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """What the outputs of each layer but the last are multiplied by: (time, batch, width) each. They are drawn in the
    order in which PyTorch's layers draw them (model.py), so a run is the same with either engine."""
    if not rnn.training or not rnn.dropout or rnn.num_layers == 1:
        return []
    (batch, time, _), width = x.shape, rnn.hidden_size * (2 if rnn.bidirectional else 1)
    batch_first = rnn.bidirectional and lengths is not None
    shape = (batch, time, width) if batch_first else (time, batch, width)
    kept = 1.0 - rnn.dropout
    masks = [x.new_empty(shape).bernoulli_(kept).div_(kept) for _ in range(rnn.num_layers - 1)]
    return [mask.transpose(0, 1) for mask in masks] if batch_first else masks


def addresses(tensors: Sequence[Tensor]) -> Any:
    """A table of where the numbers of tensors begin, for recurrent.cpp."""
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lengths: Tensor | None,
        masks: list[Tensor],
        rnn: nn.RNNBase,
        state: list[Tensor],
        outputs: bool,
        *weights: Tensor,
    ) -> tuple[Tensor | None, ...]:
        library, directions = load(), 2 if rnn.bidirectional else 1
        batch, time, size = x.shape
        threads = torch.get_num_threads()
        call = Layers(
            CELLS[rnn.mode], batch, time, size, rnn.hidden_size, rnn.num_layers, directions, threads, x.data_ptr()
        )
        tables = [addresses(weights), addresses(masks)]
        call.weights = ctypes.addressof(tables[0])
        if lengths is not None:
            call.lengths = lengths.data_ptr()
        if masks:
            call.masks, call.mask_step, call.mask_row = ctypes.addressof(tables[1]), *masks[0].stride()[:2]
        if state:
            call.h0, call.c0 = state[0].data_ptr(), state[-1].data_ptr()
        width = directions * rnn.hidden_size
        answered, final = x.new_empty(batch, time, width) if outputs else None, x.new_empty(batch, width)
        call.final = final.data_ptr()
        if answered is not None:
            call.outputs = answered.data_ptr()
        after = x.new_empty(2 if rnn.mode == "LSTM" else 1, rnn.num_layers * directions, batch, rnn.hidden_size)
        call.h, call.c = after[0].data_ptr(), after[-1].data_ptr()
        sizes = ctypes.c_int64(), ctypes.c_int64()
        library.sizes(call, *map(ctypes.byref, sizes))
        saved, scratch = (x.new_empty(each.value) for each in sizes)
        call.saved, call.scratch = saved.data_ptr(), scratch.data_ptr()
        library.forward(call)
        ctx.save_for_backward(saved)
        ctx.call, ctx.kept = call, (x, lengths, masks, state, weights, tables, scratch)
        ctx.set_materialize_grads(False)
        states = tuple(after)
        ctx.mark_non_differentiable(*states)
        return answered, final, *states

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        if ctx.kept is None:
            raise RuntimeError("the gradient of compiled layers can be asked for once; compute them again")
        _saved = ctx.saved_tensors  # raises where they are gone
        x, *_, weights, _, _ = ctx.kept
        call: Layers = ctx.call
        of_outputs, of_final = (None if each is None else each.contiguous() for each in gradients[:2])
        of_weights = [torch.empty_like(weight) for weight in weights]
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        table = addresses(of_weights)
        call.d_weights = ctypes.addressof(table)
        if of_outputs is not None:
            call.d_outputs = of_outputs.data_ptr()
        if of_final is not None:
            call.d_final = of_final.data_ptr()
        if of_x is not None:
            call.d_x = of_x.data_ptr()
        load().backward(call)
        ctx.kept = None
        return of_x, None, None, None, None, None, *of_weights
