"""Builds the compiled layers (recurrent.cpp) for each kind of processor that this machine's family has.

They lie in the Python environment, under names with a digest of the source, so code of another version is never used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("recurrent.cpp")
"""It includes the headers beside it."""
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC", "-shared")
PROCESSORS = {
    "AVX512": ("-mfma", *(f"-mavx512{part}" for part in ("f", "vl", "bw", "dq")), "-mprefer-vector-width=512"),
    "AVX2": ("-mfma", "-mavx2"),
    "DEFAULT": (),
}
"""By the names of torch.backends.cpu.get_cpu_capability(). A library for DEFAULT runs on all others too."""
SECONDS = 300
"""A compiler that takes longer has hung."""
KEPT_SECONDS = 30 * 24 * 3600
"""So long libraries of other versions are kept."""


class CannotBuild(Exception):
    """There is no compiler, or it failed; the text says which, as a clause."""


@cache
def digest() -> str:
    """Of all that decides what the libraries do."""
    sources = [SOURCE, *sorted(SOURCE.parent.glob("*.hpp"))]
    text = b"".join(source.read_bytes() for source in sources)
    return hashlib.sha256(text + repr((FLAGS, PROCESSORS)).encode()).hexdigest()[:12]


def path_of(processor: str) -> Path:
    """Where the library for a kind of processor is, or would be."""
    return Path(sys.prefix, "lib", "loopline", f"recurrent-{digest()}-{processor.lower()}.so")


def processors() -> list[str]:
    """The kinds that machines like this one have."""
    return list(PROCESSORS) if platform.machine() in ("x86_64", "AMD64") else ["DEFAULT"]


def compiler() -> list[str] | None:
    """The command that compiles C++: $CXX, or one of the usual names, or Zig's from PyPI; None if there is none."""
    named = os.environ.get("CXX", "").split()
    for command in (named, ["c++"], ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    return None


def build() -> list[Path]:
    """Builds what is missing, and deletes what other versions have left; the libraries. Raises CannotBuild."""
    paths = {processor: path_of(processor) for processor in processors()}
    missing = {processor: path for processor, path in paths.items() if not path.exists()}
    if missing:
        command = compiler()
        if command is None:
            raise CannotBuild("there is no C++ compiler")
        for processor, path in missing.items():
            _compile([*command, *FLAGS, *PROCESSORS[processor]], path)
    _clean(path_of("DEFAULT").parent, set(paths.values()))
    return list(paths.values())


def _clean(folder: Path, ours: set[Path]) -> None:
    """Deletes what nobody has built for a while: another checkout may have the same environment."""
    with suppress(OSError):
        for old in set(folder.glob("recurrent-*.so")) - ours:
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.unlink(missing_ok=True)


def _compile(command: Sequence[str], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o755)  # whoever trains must be able to read it
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder, path.name)
            subprocess.run(
                [*command, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True, timeout=SECONDS
            )
            made.chmod(0o644)
            made.replace(path)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        raise CannotBuild(f"{command[0]} failed: {lines[-1] if lines else f'exit code {error.returncode}'}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{command[0]} cannot be used: {error}") from error
