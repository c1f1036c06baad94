"""Make data/shakespeare.txt from the text that char-rnn comes with. It was run once; the result is committed.

git clone https://github.com/karpathy/char-rnn /tmp/char-rnn
python -m data.convert_shakespeare /tmp/char-rnn/data/tinyshakespeare/input.txt
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
"""Of the source."""
AFTER = "\nKING RICHARD II:\nOld John of Gaunt"
"""How the third play begins."""
TARGET = Path(__file__).parent / "shakespeare.txt"


def convert(source: Path) -> None:
    """The first two plays."""
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{source} is another file than the one that was converted")
    text = content.decode("ascii")
    TARGET.write_text(text[: text.index(AFTER)])


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
