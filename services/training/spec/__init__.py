"""The spec: what a client asks for, and whether it fits its data. Imports no torch, so that the API can use it."""

from services.training.spec.fields import Spec
from services.training.spec.parsing import check_data, completed, parse, stored
from services.training.spec.reading import loads

__all__ = ["Spec", "check_data", "completed", "loads", "parse", "stored"]
