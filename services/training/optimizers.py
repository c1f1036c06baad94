"""torch's optimizers, without the import of torch's compiler that comes with them."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch
from torch import nn

from services.training.spec.fields import Optimizer

T = TypeVar("T", bound=torch.optim.Optimizer)
BOOKKEEPING = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def make(chosen: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that a spec chose; fused where there is one: a single kernel for all parameters."""
    if chosen.name == "sgd":
        return _eager(torch.optim.SGD)(
            parameters,
            lr=chosen.lr,
            weight_decay=chosen.weight_decay,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov,
            fused=True,
        )
    if chosen.name == "rmsprop":
        return _eager(torch.optim.RMSprop)(
            parameters,
            lr=chosen.lr,
            weight_decay=chosen.weight_decay,
            momentum=chosen.momentum,
            alpha=chosen.alpha,
            eps=chosen.eps,
        )
    kind = _eager(torch.optim.Adam if chosen.name == "adam" else torch.optim.AdamW)
    return kind(
        parameters, lr=chosen.lr, betas=chosen.betas, eps=chosen.eps, weight_decay=chosen.weight_decay, fused=True
    )


def _eager(kind: type[T]) -> type[T]:
    """The same optimizer with its methods as they are written.

    torch wraps them, so that its compiler leaves them out. At their first call the wrappers import the compiler: 800
    modules, for more than a second of processor time. Nothing is compiled here.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in BOOKKEEPING}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step})
