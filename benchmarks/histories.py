"""`python -m benchmarks.histories REVISION`: do the nine presets train to the same numbers as at another commit?

Each preset is trained twice on the Japanese Vowels: by the code as it stands here, and by the code of REVISION, which
git checks out into a temporary folder. Weights and every number that both record must be equal, bit for bit. Exits 1
where one is not.
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


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Name one commit to compare with, for example: make histories SINCE=HEAD~1", file=sys.stderr)
        return 2
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


def same(preset: str, other: Path, folder: Path) -> bool:
    """Whether both trees train this preset to the same history and weights; prints a line that says so."""
    spec = folder / f"{preset}.yaml"
    data = {"dataset": str(ROOT / "data" / "japanese-vowels.npz"), "scaling": "standard"}
    spec.write_text(json.dumps({"preset": preset, "training": {"epochs": 3, "batch_size": 32}, "data": data}))
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
