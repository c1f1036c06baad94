"""`python -m benchmarks.histories REVISION`: do the nine presets train to the same numbers as at another commit?

Each preset is trained twice on the Japanese Vowels: by the code as it stands here, and by the code of REVISION, which
git checks out into a temporary folder. Weights and every number that both record must be equal, bit for bit. Exits 1
where one is not.

`python -m benchmarks.histories engines`: do they train to the same numbers with PyTorch's layers as with the compiled
ones? Losses and metrics of three epochs must be equal within TOLERANCE.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from services.training.spec.presets import PRESETS

ROOT = Path(__file__).parent.parent
TIMES = frozenset({"seconds", "samples_per_second"})
"""Fields of an epoch's record that no two runs share."""
TOLERANCE = 2e-5
COMPARED = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Name one commit to compare with, for example: make histories SINCE=HEAD~1", file=sys.stderr)
        return 2
    if arguments == ["engines"]:
        with tempfile.TemporaryDirectory() as folder:
            return int(any(not near(name, Path(folder)) for name in PRESETS))
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "other")
        git("worktree", "add", "--quiet", "--detach", str(other), arguments[0])
        try:
            different = [name for name in PRESETS if not same(name, other, Path(folder))]
        finally:
            git("worktree", "remove", "--force", str(other))
    return int(bool(different))


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, check=True)


def spec_of(preset: str, folder: Path, **training: Any) -> Path:
    spec = folder / f"{preset}.yaml"
    data = {"dataset": str(ROOT / "data" / "japanese-vowels.npz"), "scaling": "standard"}
    training = {"epochs": 3, "batch_size": 32, **training}
    spec.write_text(json.dumps({"preset": preset, "training": training, "data": data}))
    return spec


def near(preset: str, folder: Path) -> bool:
    """Whether both engines train this preset to the same numbers; prints a line that says so."""
    histories = [
        trained(ROOT, spec_of(preset, folder, engine=engine), folder / preset / engine)[0]
        for engine in ("torch", "compiled")
    ]
    apart = [
        abs(ours[name] - theirs[name])
        for ours, theirs in zip(*histories, strict=True)
        for name in COMPARED
        if theirs.get(name) is not None
    ]
    equal = max(apart) <= TOLERANCE
    print(f"{preset:28} {'the same' if equal else 'DIFFERENT'}   at most {max(apart):.1e} apart", flush=True)
    return equal


def same(preset: str, other: Path, folder: Path) -> bool:
    """Whether both trees train this preset to the same history and weights; prints a line that says so."""
    spec = spec_of(preset, folder)
    here, weights = trained(ROOT, spec, folder / preset / "here")
    there, other_weights = trained(other, spec, folder / preset / "there")
    numbers = [{key: epoch.get(key) for key in known.keys() - TIMES} for epoch, known in zip(here, there, strict=True)]
    known = [{key: value for key, value in epoch.items() if key not in TIMES} for epoch in there]
    equal = numbers == known and weights == other_weights
    print(f"{preset:28} {'the same' if equal else 'DIFFERENT'}   last loss {here[-1]['train_loss']!r}", flush=True)
    return equal


def trained(tree: Path, spec: Path, out: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The records of all epochs, and the weights as bytes, by the code in `tree`."""
    command = [sys.executable, "-m", "services.training", str(spec), "--out", str(out), "--quiet"]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    weights = load_file(out / "model.safetensors")
    return json.loads((out / "history.json").read_text())["epochs"], {k: v.tobytes() for k, v in weights.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
