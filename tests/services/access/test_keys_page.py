"""docs/keys.md: every command on the page is tried, in the order they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from services import db
from services.access import keys, tenants

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")


def test_every_command_on_the_page_works(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    ours = [line for line in lines if "python -m services" in line]
    assert len(ours) == 11
    assert [line for line in lines if line not in ours] == ["LOOPLINE_API_KEY=$KEY loopline whoami"]
    script = "\n".join(["set -eu", 'OLD_ID=""', *ours[:9], OLD, *ours[9:], 'echo "$KEY"', 'echo "$NEW"'])
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LOOPLINE_DATA_DIR": str(tmp_path / "var")}
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, new = done.stdout.split()[-2:]
    engine = db.engine(f"sqlite:///{tmp_path}/var/loopline.db")
    with db.read_scope(engine) as session:
        assert keys.verify(session, first).tenant == "default"
        assert keys.verify(session, new).tenant == "acme"
        acme = tenants.get(session, "acme")
        assert (acme.max_queued, acme.max_running, acme.max_bytes, acme.share) == (None, 8, 50_000_000_000, 2.0)
        revoked = [key.name for key in keys.page(session)[0] if key.revoked_at]
    engine.dispose()
    assert revoked == ["acme, first key"]


OLD = "OLD_ID=$(python -m services keys list --tenant acme | tail -1 | cut -d ' ' -f 1)"
"""What a person reads from the list."""


def test_the_page_says_what_the_code_does() -> None:
    from api import keyring, rates
    from services.production import SHORTEST
    from services.settings import Settings

    assert keyring.CACHE_SECONDS == 5.0
    assert "within five seconds" in " ".join(PAGE.split())
    assert Settings.model_fields["rate_limit"].default == "200 per 10 seconds"
    assert "200 requests in 10 seconds" in " ".join(PAGE.split())
    assert rates.Rate(10, 60) == rates.FAILURES
    assert "more than ten in a minute" in " ".join(PAGE.split())
    assert f"shorter than {SHORTEST} characters" in " ".join(PAGE.split())
    assert f"`{rates.PREFIX}`" in PAGE
