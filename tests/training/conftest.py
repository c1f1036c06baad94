"""Tests of training compute with one thread: their networks are too small for two, and other tests run beside them."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
