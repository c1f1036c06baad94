"""Models that are trained once for all tests of a process."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.client.prediction.cases import Trained


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains the case of a name, unless it is trained."""
    return functools.cache(lambda name: Trained.of(name, tmp_path_factory.mktemp("model")))
