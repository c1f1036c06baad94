"""The compiled layers of this machine, loaded, with torch's threads."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from services.training.engine.building import path_of

Address = ctypes.c_void_p
Size = ctypes.c_int64
Number = ctypes.c_double


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Layers(ctypes.Structure):
    """What is computed: `struct Layers` of recurrent.cpp, which says what each field is."""

    _fields_ = (
        *_fields(Size, "cell batch time input hidden layers directions threads"),
        *_fields(Address, "x lengths weights masks"),
        *_fields(Size, "mask_step mask_row"),
        *_fields(Address, "h0 c0 outputs final h c saved d_outputs d_final d_weights d_x scratch head"),
    )


class Norm(ctypes.Structure):
    """`struct Norm` of norm.hpp: batch normalisation."""

    _fields_ = (
        *_fields(Address, "weight bias d_weight d_bias mean variance batches"),
        *_fields(Number, "momentum eps"),
    )


class Head(ctypes.Structure):
    """`struct Head`: a pooling, batch normalisation and a linear layer."""

    _fields_ = (
        *_fields(Size, "pooling beside size"),
        *_fields(Address, "norm side mask weight bias outputs d_outputs"),
    )


class Update(ctypes.Structure):
    """`struct Update` of update.hpp: of all weights, from their gradient."""

    _fields_ = (
        *_fields(Size, "optimizer parts threads"),
        *_fields(Address, "sizes weights gradients first second steps"),
        *_fields(Number, "lr beta1 beta2 eps weight_decay momentum"),
        *_fields(Size, "nesterov"),
        *_fields(Number, "max_value max_norm norm"),
        *_fields(Size, "clipped"),
    )


class Loss(ctypes.Structure):
    """`struct Loss` of losses.hpp: the loss of outputs, and its gradient."""

    _fields_ = (
        *_fields(Size, "kind rows size stride levels"),
        *_fields(Address, "outputs targets weights of_row level"),
        *_fields(Number, "smoothing delta share"),
        *_fields(Address, "d_outputs"),
        *_fields(Number, "loss"),
    )


class Unavailable(Exception):
    """This machine has no compiled layers; the text says why, as a clause."""


@cache
def load() -> ctypes.CDLL:
    """The library for this processor, loaded once. Raises Unavailable."""
    for processor in dict.fromkeys((torch.backends.cpu.get_cpu_capability(), "DEFAULT")):
        try:
            is_built = path_of(processor).exists()
        except OSError as error:
            raise Unavailable(f"they cannot be read ({error})") from error
        if is_built:
            return _ready(path_of(processor))
    raise Unavailable("they were not built here (`make setup` builds them where there is a C++ compiler)")


def processor() -> str:
    """For which kind of processor the loaded library is. Raises Unavailable."""
    return Path(load()._name).stem.rsplit("-", 1)[1].upper()


def _ready(path: Path) -> ctypes.CDLL:
    folder = Path(torch.__file__).parent / "lib"
    try:
        library = ctypes.CDLL(str(path))
        library.borrow(ctypes.cast(ctypes.CDLL(str(folder / "libgomp.so.1")).GOMP_parallel, Address))
    except (OSError, AttributeError) as error:
        raise Unavailable(f"this build of torch does not fit ({error})") from error
    for function in (library.forward, library.backward):
        function.argtypes, function.restype = [ctypes.POINTER(Layers)], None
    library.update.argtypes, library.update.restype = [ctypes.POINTER(Update)], None
    library.train.argtypes, library.train.restype = [*[Address] * 4, Size], Size  # pointers to structures cost more
    library.sizes.argtypes, library.sizes.restype = [ctypes.POINTER(Layers), *[ctypes.POINTER(Size)] * 2], None
    return library
