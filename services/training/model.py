"""SequenceModel: vectors for words where there are any, a recurrent network, a pooling over time, and a linear head.

The parts carry torch's own names and are created in the order of the plain network that one would write by hand, so the
same seed gives the same parameters. Sequences of different lengths come zero-padded beside their lengths, and padding
never reaches an output: a sequence gives the same output alone or beside a longer one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from services.training.engine import layers
from services.training.spec.fields import Architecture
from services.training.spec.footprint import GATES

Recurred = TypeVar("Recurred")
Hidden = tuple[Tensor, ...]
"""What a recurrent network carries from step to step: h, or h and c; () for zeros."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""torch's names of the precisions that a spec may ask for beside float32."""


class SequenceModel(nn.Module):
    """Maps x (batch, time, channels) to (batch, output_size). With the pooling `none` it is (valid steps,
    output_size), one sequence after the other."""

    def __init__(
        self,
        architecture: Architecture,
        input_size: int,
        output_size: int,
        *,
        static_size: int = 0,
        embeddings: Sequence[tuple[int, int]] = (),
        patch: int = 1,
    ) -> None:
        """`input_size` is the number of channels, `static_size` that of the values which the head reads beside the
        pooled steps. The last channels of a step are numbers of words; `embeddings` has how many words there are, with
        0 for an unknown one, and the size of their vectors. With a `patch` a step is this many steps side by side."""
        super().__init__()
        a = architecture
        self.architecture = a
        self.patch = patch
        self.embeddings = nn.ModuleList(nn.Embedding(words, size, padding_idx=0) for words, size in embeddings)
        options: dict[str, Any] = {"nonlinearity": a.nonlinearity or "tanh"} if a.cell == "rnn" else {}
        cell = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[a.cell]
        self.rnn: nn.RNNBase = cell(
            input_size + patch * sum(size - 1 for _, size in embeddings),
            a.hidden_size,
            a.num_layers,
            batch_first=True,
            dropout=a.dropout,
            bidirectional=a.bidirectional,
            **options,
        )
        width = a.hidden_size * (2 if a.bidirectional else 1)
        self.attention = nn.Linear(width, 1) if a.pooling == "attention" else None
        self.norm = nn.BatchNorm1d(width) if a.batch_norm else None
        self.head_dropout = nn.Dropout(a.head_dropout)
        self.head = nn.Linear(width + static_size, output_size)
        self.compiled = False
        """Whether the recurrent layers are computed by compiled code (engine/choice.py)."""
        initialise(self.rnn, a)

    def forward(self, x: Tensor, lengths: Tensor | None = None, static: Tensor | None = None) -> Tensor:
        """x (batch, time, channels); lengths (batch,) of at least 1, or None where every step is valid; static (batch,
        static_size)."""
        x = self.looked_up(x)
        return self.answered(self.pool(x, lengths), x, lengths, static)

    def continued(
        self, x: Tensor, lengths: Tensor | None, static: Tensor | None, state: Hidden
    ) -> tuple[Tensor, Hidden]:
        """`forward` with the pooling `none`, from a state on and not from zeros; and the state after the last step of
        x. A state is h (layers, batch, hidden_size), or h and c of an LSTM; () stands for zeros. That of a sequence
        which ends before the others here is of no use. Raises NotImplementedError for a bidirectional network."""
        if self.rnn.bidirectional:
            raise NotImplementedError("what reads backwards begins at the end of a sequence")
        x = self.looked_up(x)
        outputs, state = self._recurred_on(x, lengths, state)
        return self.answered(_valid(outputs, lengths), x, lengths, static), state

    def answered(self, pooled: Tensor, x: Tensor, lengths: Tensor | None, static: Tensor | None) -> Tensor:
        """What the head makes of what is pooled (rows, width): (rows, output_size)."""
        if self.norm is not None:
            pooled = self.norm(pooled)
        if self.architecture.head_dropout:
            pooled = self.head_dropout(pooled)
        if static is not None:
            pooled = torch.cat((pooled, self._beside(static, x, lengths).to(pooled.dtype)), dim=1)
        return F.linear(pooled, self.head.weight, self.head.bias)

    def looked_up(self, x: Tensor) -> Tensor:
        """What the recurrent network reads: x with the vectors of words in the place of their numbers."""
        if not len(self.embeddings):
            return x
        batch, time, _ = x.shape
        steps = x.view(batch, time, self.patch, -1)
        first = steps.shape[3] - len(self.embeddings)
        vectors = [table(steps[..., first + place].long()) for place, table in enumerate(self.embeddings)]
        return torch.cat((steps[..., :first], *vectors), dim=3).view(batch, time, -1)

    def _beside(self, static: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        """static (batch, values) for each row of what is pooled."""
        if self.architecture.pooling != "none":
            return static
        return static.repeat_interleave(x.shape[1] if lengths is None else lengths, dim=0)

    def pool(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The recurrent network's answer, pooled over the valid steps: (batch, directions * hidden_size)."""
        if self.compiled:
            outputs, final, _ = layers.recur(self.rnn, x, lengths, outputs=self._pools_outputs)
        else:
            outputs, final = self.recur(x, lengths)
        return self.pooled(outputs, final, lengths)

    @property
    def _pools_outputs(self) -> bool:
        """Whether the pooling reads more than the final state."""
        a = self.architecture
        return a.pooling != "final" and (a.pooling != "last" or a.bidirectional)

    def pooled(self, outputs: Tensor | None, final: Tensor, lengths: Tensor | None) -> Tensor:
        """The same from what `recur` gives."""
        pooling = self.architecture.pooling
        if not self._pools_outputs:  # forwards the last output is the final state, whose gradient is the cheaper one
            return final
        assert outputs is not None  # noqa: S101
        if pooling == "none":
            return _valid(outputs, lengths)
        if pooling == "last":
            return self._last(outputs, final, lengths)
        if lengths is None:
            valid = None
        else:
            valid = (torch.arange(outputs.shape[1], device=outputs.device) < lengths[:, None]).unsqueeze(2)
        if pooling == "mean":
            return _mean(outputs, valid, lengths)
        if pooling == "max":
            return _masked(outputs, valid).amax(dim=1)
        assert self.attention is not None  # noqa: S101
        weights = _masked(self.attention(outputs), valid).softmax(dim=1)
        return (weights * outputs).sum(dim=1)

    def _last(self, outputs: Tensor, final: Tensor, lengths: Tensor | None) -> Tensor:
        """The outputs of both directions at the last valid step."""
        hidden = self.architecture.hidden_size
        if lengths is None:
            backwards = outputs[:, -1, hidden:]
        else:
            rows = torch.arange(len(outputs), device=outputs.device)
            backwards = outputs[rows, lengths - 1, hidden:]
        return torch.cat((final[:, :hidden], backwards), dim=1)

    def recur(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs (batch, time, width), right at valid steps, and the final state of the top layer (batch, width).

        Under autocast the layers are computed in float32 where this machine cannot compute them in the type asked for.
        """
        if self.compiled:
            outputs, final, _ = layers.recur(self.rnn, x, lengths)
            assert outputs is not None  # noqa: S101
            return outputs, final
        return self._cast(x, lambda x: self._recur(x, lengths))

    def _cast(self, x: Tensor, recur: Callable[[Tensor], Recurred]) -> Recurred:
        """What the recurrent layers make of x in the precision that is asked for, or in float32."""
        device = x.device
        if not torch.is_autocast_enabled(device.type):
            return recur(x)
        dtype = torch.get_autocast_dtype(device.type)
        if works_in(dtype, self.rnn.mode, self.rnn.bidirectional, device):
            return _cast_to(dtype, x, recur)
        with torch.autocast(device.type, enabled=False):
            return recur(x.float())

    def precision_of_layers(self, precision: str, device: torch.device) -> str:
        """In which precision the recurrent layers are computed on this device, where a spec asks for this one."""
        if precision == "float32" or works_in(DTYPES[precision], self.rnn.mode, self.rnn.bidirectional, device):
            return precision
        return "float32"

    def _recurred_on(self, x: Tensor, lengths: Tensor | None, state: Hidden) -> tuple[Tensor, Hidden]:
        if not self.compiled:
            return self._cast(x, lambda x: self._recur_on(x, lengths, state))
        outputs, _, state = layers.recur(self.rnn, x, lengths, state)
        assert outputs is not None  # noqa: S101
        return outputs, state

    def _recur_on(self, x: Tensor, lengths: Tensor | None, state: Hidden) -> tuple[Tensor, Hidden]:
        """Outputs (batch, time, hidden_size), right at valid steps, and the state after them.

        Steps after the end cannot reach those before it, so padding needs no care.
        """
        weights, layers = _weights(self.rnn), self.rnn.num_layers
        if x.is_cuda and self._draws_within() and torch.are_deterministic_algorithms_enabled():
            return self._recur_layers_on(x, state)
        outputs, *after = _call(self.rnn, x, weights, layers, False, state)
        if lengths is not None and self._overflowed(after[0]):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            found, hidden = self.rnn(packed, state[0] if state else None)
            outputs, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
            after = [hidden]
        return outputs, tuple(after)

    def _recur_layers_on(self, x: Tensor, state: Hidden) -> tuple[Tensor, Hidden]:
        """Layer by layer: see `_recur_layers`."""
        weights, layers = _weights(self.rnn), self.rnn.num_layers
        per_layer = len(weights) // layers
        found: list[list[Tensor]] = []
        for layer in range(layers):
            if layer and self._draws_within():
                x = F.dropout(x, self.rnn.dropout)
            own = weights[layer * per_layer : (layer + 1) * per_layer]
            x, *after = _call(self.rnn, x, own, 1, False, tuple(each[layer : layer + 1] for each in state))
            found.append(after)
        return x, tuple(torch.cat(each) for each in zip(*found, strict=True))

    def _recur(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        if x.is_cuda and self._draws_within() and torch.are_deterministic_algorithms_enabled():
            return self._recur_layers(x, lengths)
        if lengths is None:
            return self._recur_full(x)
        if x.is_cuda:
            return self._recur_packed(x, lengths)
        if not self.architecture.bidirectional:
            # Steps after the end cannot reach those before it, so padding needs no care but in taking the final state.
            outputs, hidden, *_ = _call(self.rnn, x, _weights(self.rnn), self.rnn.num_layers, False)
            if self._overflowed(hidden):
                return self._recur_valid(x, lengths)
            return outputs, outputs[torch.arange(len(x), device=x.device), lengths - 1]
        return self._recur_both_ways(x, lengths)

    def _recur_full(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, hidden, *_ = _call(self.rnn, x, _weights(self.rnn), self.rnn.num_layers, self.rnn.bidirectional)
        final = torch.cat((hidden[-2], hidden[-1]), dim=1) if self.rnn.bidirectional else hidden[-1]
        return outputs, final

    def _recur_packed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """cuDNN reads packed sequences natively; the lengths must lie in host memory, so this copies them there."""
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        if x.dtype == torch.bfloat16:
            output, hidden = self._call_packed(packed)
        else:
            output, state = self.rnn(packed)
            hidden = state[0] if isinstance(state, tuple) else state
        outputs, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
        return outputs, torch.cat((hidden[-2], hidden[-1]), dim=1) if self.rnn.bidirectional else hidden[-1]

    def _call_packed(self, packed: PackedSequence) -> tuple[PackedSequence, Tensor]:
        """What the module does with a packed sequence, its weights in the type of the input: (outputs, hidden)."""
        rnn, x = self.rnn, packed.data
        layers = rnn.num_layers * (2 if rnn.bidirectional else 1)
        zeros = x.new_zeros(layers, int(packed.batch_sizes[0]), rnn.hidden_size)
        state = (zeros, zeros) if rnn.mode == "LSTM" else zeros
        weights = [weight.to(x.dtype) for weight in _weights(rnn)]
        dropout = rnn.dropout if rnn.num_layers > 1 else 0.0
        output, hidden, *_ = FUNCTIONS[rnn.mode](
            x, packed.batch_sizes, state, weights, True, rnn.num_layers, dropout, rnn.training, rnn.bidirectional
        )
        if packed.unsorted_indices is not None:
            hidden = hidden.index_select(1, packed.unsorted_indices)
        return PackedSequence(output, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), hidden

    def _draws_within(self) -> bool:
        """Whether there is dropout between the layers of the recurrent network now."""
        return self.training and self.rnn.dropout > 0 and self.rnn.num_layers > 1

    def _recur_layers(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Layer by layer, with torch's dropout between them.

        cuDNN's own dropout draws from a state of its own that nobody can read (torch seeds it once from the device's
        generator), so a run that uses it cannot be resumed exactly.
        """
        if lengths is not None and self.rnn.bidirectional:
            return self._recur_both_ways(x, lengths)
        both, weights = self.rnn.bidirectional, _weights(self.rnn)
        per_layer = len(weights) // self.rnn.num_layers
        for layer in range(self.rnn.num_layers):
            if layer:
                x = F.dropout(x, self.rnn.dropout)
            x, hidden, *_ = _call(self.rnn, x, weights[layer * per_layer : (layer + 1) * per_layer], 1, both)
        if lengths is not None:
            return x, x[torch.arange(len(x), device=x.device), lengths - 1]
        return x, torch.cat((hidden[-2], hidden[-1]), dim=1) if both else hidden[-1]

    def _overflowed(self, hidden: Tensor) -> bool:
        """Whether a state has left the finite numbers, as only those of relu can: maybe after its sequence's end.

        Nothing of what comes after the end is asked for, but in the gradient of the weights 0 times infinity is NaN.
        """
        return self.rnn.mode == "RNN_RELU" and not bool(hidden.isfinite().all())

    def _recur_valid(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes no step after an end, at twice the time."""
        with torch.autocast(x.device.type, enabled=False):
            return self._recur_packed(x.float(), lengths)

    def _recur_both_ways(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Layer by layer, the backward direction on sequences reversed within their lengths.

        On a CPU that beats packed sequences, whose every time step is a batch of another size.
        """
        given = x
        steps = torch.arange(x.shape[1], device=x.device)
        mirror = lengths[:, None] - 1 - steps
        mirror = torch.where(mirror >= 0, mirror, steps)
        rows = torch.arange(len(x), device=x.device)
        weights = _weights(self.rnn)
        per_direction = len(weights) // (2 * self.rnn.num_layers)
        for layer in range(self.rnn.num_layers):
            at = 2 * layer * per_direction
            forwards, hidden, *_ = _call(self.rnn, x, weights[at : at + per_direction], 1, False)
            backwards, hidden_back, *_ = _call(
                self.rnn, _mirrored(x, mirror), weights[at + per_direction : at + 2 * per_direction], 1, False
            )
            if self._overflowed(hidden) or self._overflowed(hidden_back):
                return self._recur_valid(given, lengths)
            final = torch.cat((forwards[rows, lengths - 1], backwards[rows, lengths - 1]), dim=1)
            x = torch.cat((forwards, _mirrored(backwards, mirror)), dim=2)
            if self.training and self.rnn.dropout and layer < self.rnn.num_layers - 1:
                x = F.dropout(x, self.rnn.dropout)
        return x, final


def _valid(outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """The valid steps of outputs (batch, time, width), one sequence after the other."""
    if lengths is None:
        return outputs.flatten(0, 1)
    return outputs[torch.arange(outputs.shape[1], device=outputs.device) < lengths[:, None]]


def _cast_to(dtype: torch.dtype, x: Tensor, recur: Callable[[Tensor], Recurred]) -> Recurred:
    """Under autocast to this type.

    On a GPU bf16 is a cast of our own: under autocast cuDNN's recurrent networks run in fp16, whichever type was asked
    for (ATen/cudnn/AutocastRNN.cpp), and nobody scales the loss of a bf16 run.
    """
    if x.is_cuda and dtype == torch.bfloat16:
        with torch.autocast("cuda", enabled=False):
            return recur(x.to(dtype))
    return recur(x)


def _call(
    rnn: nn.RNNBase, x: Tensor, weights: list[Tensor], num_layers: int, bidirectional: bool, given: Hidden = ()
) -> tuple[Tensor, ...]:
    """One of torch's recurrent functions, from a zero state if none is given: (outputs, hidden, ...).

    The same arithmetic as calling the module, without its checks: a third of a tiny network's time.
    """
    directions = 2 if bidirectional else 1
    zeros = x.new_zeros(num_layers * directions, x.shape[0], rnn.hidden_size)
    if torch.is_autocast_enabled(x.device.type):
        zeros = zeros.to(torch.get_autocast_dtype(x.device.type))
    elif weights[0].dtype != x.dtype:
        weights = [weight.to(x.dtype) for weight in weights]
    begin = tuple(each.to(zeros.dtype) for each in given) if given else (zeros, zeros)
    state = begin if rnn.mode == "LSTM" else begin[0]
    dropout = rnn.dropout if num_layers > 1 else 0.0
    function = FUNCTIONS[rnn.mode]
    result: tuple[Tensor, ...] = function(
        x, state, weights, True, num_layers, dropout, rnn.training, bidirectional, True
    )
    return result


FUNCTIONS: dict[str, Any] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


PROBE_TOLERANCE = 0.1
"""How far from float32 a layer in half the precision may be, of the largest value: bf16 has eight bits."""


@functools.cache
def works_in(dtype: torch.dtype, mode: str, bidirectional: bool, device: torch.device) -> bool:
    """Whether this machine and this torch can train such a recurrent layer in half the precision; asked once a process.

    oneDNN has a bf16 LSTM only from AVX-512 on and an fp16 LSTM on few CPUs. A GPU has bf16 from compute capability 8.0
    on; an older one only emulates it. The rest is found out by a forward and a backward pass of a tiny network, with
    and without lengths, whose numbers must be near those of float32. Draws no random numbers.
    """
    if device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0):
        return False
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        model = _probe(mode, bidirectional).to(device)
        for lengths in (None, torch.tensor([5, 2, 1, 4])):
            wanted = _probed(model, None, device, lengths)
            try:
                found = _probed(model, dtype, device, lengths)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # that is no answer
            except RuntimeError:
                return False
            if not bool((found - wanted).abs().max() <= PROBE_TOLERANCE * wanted.abs().max()):
                return False
    return True


def _probe(mode: str, bidirectional: bool) -> SequenceModel:
    """A tiny network with fixed weights."""
    cell, nonlinearity = ("rnn", mode.removeprefix("RNN_").lower()) if mode.startswith("RNN") else (mode.lower(), None)
    document = {"cell": cell, "nonlinearity": nonlinearity, "hidden_size": 8, "bidirectional": bidirectional}
    model = SequenceModel(Architecture.model_validate(document), 3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.3, 0.4, parameter.numel()).view_as(parameter))
    return model


def _probed(model: SequenceModel, dtype: torch.dtype | None, device: torch.device, lengths: Tensor | None) -> Tensor:
    """Outputs and gradients of one step there and back: (numbers,)."""
    model.zero_grad()
    x = torch.linspace(-1.0, 1.0, 4 * 5 * 3).view(4, 5, 3).to(device)
    lengths = None if lengths is None else lengths.to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        _, final = model._recur(x, lengths) if dtype is None else _cast_to(dtype, x, lambda x: model._recur(x, lengths))
    final.float().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in _weights(model.rnn) if weight.grad is not None]
    return torch.cat([tensor.detach().float().flatten() for tensor in (final, *gradients)])


def _weights(rnn: nn.RNNBase) -> list[Tensor]:
    return cast("list[Tensor]", rnn._flat_weights)


class _Mirror(torch.autograd.Function):
    """Reverses each sequence within its length. It is its own inverse, and so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.gather(1, index.expand(-1, -1, x.shape[2]))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.gather(1, index.expand(-1, -1, gradient.shape[2])), None


def _mirrored(x: Tensor, mirror: Tensor) -> Tensor:
    result: Tensor = _Mirror.apply(x, mirror.unsqueeze(2))  # type: ignore[no-untyped-call]
    return result


def _masked(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else values.masked_fill(~valid, -math.inf)


def _mean(outputs: Tensor, valid: Tensor | None, lengths: Tensor | None) -> Tensor:
    if valid is None or lengths is None:
        return outputs.mean(dim=1)
    return outputs.masked_fill(~valid, 0.0).sum(dim=1) / lengths[:, None]


@torch.no_grad()
def initialise(rnn: nn.RNNBase, architecture: Architecture) -> None:
    """Redraws the recurrent weights as the spec says, gate by gate; `default` leaves torch's own draw.

    xavier: Glorot and Bengio 2010, both matrices. orthogonal: Saxe et al. 2014 for the recurrent matrix, xavier for the
    other. kaiming: He et al. 2015, both. identity: Le, Jaitly and Hinton 2015. All of them set the biases to zero.
    """
    init, gates = architecture.init, GATES[architecture.cell]
    for name, parameter in rnn.named_parameters():
        if init != "default":
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.chunk(gates):
                    _draw(gate, init, recurrent=name.startswith("weight_hh"))
        if architecture.forget_gate_bias is not None and name.startswith("bias"):
            forget = parameter.chunk(4)[1]  # torch's order of gates: input, forget, cell, output
            nn.init.constant_(forget, architecture.forget_gate_bias if name.startswith("bias_ih") else 0.0)


def _draw(weight: Tensor, init: str, *, recurrent: bool) -> None:
    if init == "kaiming":
        nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    elif init == "orthogonal" and recurrent:
        nn.init.orthogonal_(weight)
    elif init == "identity" and recurrent:
        nn.init.eye_(weight)
    elif init == "identity":
        nn.init.normal_(weight, std=0.001)
    else:
        nn.init.xavier_uniform_(weight)
