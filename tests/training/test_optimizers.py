"""The optimizers of training: torch's own without its compiler. That they make the same updates: test_loop.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
USE_ALL = """
import sys, torch
from services.training import optimizers, run
from services.training.spec.fields import SGD, Adam, AdamW, RMSprop
for chosen in (Adam(), AdamW(), SGD(momentum=0.9), RMSprop()):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizers.make(chosen, [parameter])
    optimizer.zero_grad()
    parameter.sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert (parameter != 1).all()
    assert type(optimizer).__name__ == type(chosen).__name__
run.warm(torch.device("cpu"))
print({"torch", "torch._dynamo", "sympy"} & sys.modules.keys())
"""


def test_training_does_not_import_torchs_compiler() -> None:
    printed = subprocess.run([sys.executable, "-c", USE_ALL], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout == "{'torch'}\n"
