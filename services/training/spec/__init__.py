"""The spec: what a client asks for, and whether it fits its data. Imports no torch, so that the API can use it."""

from services.training.spec.fields import Spec, check_data, loads, parse, stored

__all__ = ["Spec", "check_data", "loads", "parse", "stored"]
