"""`python -m services`: administration on the host that has the database. It needs no API key.

It reads the same LOOPLINE_ settings as the service. The result goes to stdout and everything else to stderr, so that
KEY=$(python -m services keys create ...) contains the key and nothing more. Exit status: 0 done, 1 the database
cannot be used, 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pydantic import ValidationError
from sqlalchemy.orm import Session

from services import db
from services.access import audit, keys, tenants
from services.access.audit import Actor
from services.errors import BadRequest, Invalid, LooplineError, Unavailable
from services.orm import ApiKey, Tenant
from services.settings import Settings
from services.starting import cannot_write
from services.text import visible
from services.wording import setting_sentences

DAY = 24 * 3600.0
MOST = 10_000
LIMITS = {
    "max_queued": "jobs that wait, queued or paused",
    "max_running": "jobs that run at a time",
    "max_bytes": "bytes of uploaded data sets",
}

Options = argparse.Namespace
Command = Callable[[Session, Options], Iterable[str]]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        engine = db.engine(Settings().database_url)
        try:
            if options.command is migrate:
                db.migrate(engine)
            else:
                db.check_schema(engine)
            with db.session_scope(engine) as session:
                lines = list(options.command(session, options))
        finally:
            engine.dispose()
    except ValidationError as error:
        print("\n".join(setting_sentences(error)), file=sys.stderr)
        return 2
    except LooplineError as error:
        print(visible("\n  ".join([error.message, *_problems(error)])), file=sys.stderr)
        return 1 if isinstance(error, Unavailable) else 2
    except OSError as error:
        if (sentence := cannot_write(error)) is None:
            raise
        print(visible(sentence), file=sys.stderr)
        return 1
    if lines:
        print("\n".join(lines))
    return 0


def migrate(session: Session, options: Options) -> Iterable[str]:
    """Bring the database's schema up to date, as the API does when it starts."""
    print_note(f"The database is at revision {db.REVISION}.")
    return ()


def create_tenant(session: Session, options: Options) -> Iterable[str]:
    """Make a tenant; without limits it may have as much as it likes."""
    made = tenants.create(session, options.name, **changes(options))
    audit.record(session, Actor(made.name), "tenant.create")
    print_note(f"The tenant {made.name} is there. Make its first key: {as_typed('keys create --tenant', made.name)}")
    return ()


def set_tenant(session: Session, options: Options) -> Iterable[str]:
    """Change the limits and the share of a tenant: those that are given."""
    if not changes(options):
        raise BadRequest("There is nothing to change: give --max-queued, --max-running, --max-bytes or --share.")
    changed = tenants.change(session, options.name, **changes(options))
    audit.record(session, Actor(changed.name), "tenant.set")
    return table([described(session, changed)])


def list_tenants(session: Session, options: Options) -> Iterable[str]:
    """List the tenants with what they have and may have."""
    return table([described(session, tenant) for tenant in tenants.every(session)])


def create_key(session: Session, options: Options) -> Iterable[str]:
    """Make an API key and print it, once: only a hash of it is kept."""
    seconds = None if options.expires_days is None else options.expires_days * DAY
    scopes = [scope.strip() for scope in options.scopes.split(",")]
    key, text = keys.create(session, options.tenant, scopes, name=options.name, expires_seconds=seconds)
    audit.record(session, Actor(key.tenant), "key.create", key.id)
    ends = f"ends {when(key.expires_at)}" if key.expires_at else "does not end by itself"
    print_note(f"{key.id} of the tenant {key.tenant} may {key.scopes.replace(',', ', ')} and {ends}.")
    print_note("This is the only time that it is shown; clients read it from LOOPLINE_API_KEY.")
    return [text]


def list_keys(session: Session, options: Options) -> Iterable[str]:
    """List keys, newest first, without their secrets."""
    found, _ = keys.page(session, tenant=options.tenant, limit=MOST)
    return table([shown(key) for key in found])


def revoke_key(session: Session, options: Options) -> Iterable[str]:
    """End a key; running services refuse it within a few seconds."""
    key = keys.revoke(session, options.id)
    audit.record(session, Actor(key.tenant), "key.revoke", key.id)
    print_note(f"{key.id} of the tenant {key.tenant} is revoked since {when(key.revoked_at)}.")
    return ()


def list_audit(session: Session, options: Options) -> Iterable[str]:
    """List who did what, newest first."""
    found, _ = audit.page(session, tenant=options.tenant, limit=options.limit)
    return table(
        {
            "at": when(entry.at),
            "tenant": entry.tenant,
            "key": entry.key_id or "-",
            "action": entry.action,
            "resource": entry.resource_id or "-",
            "request": entry.request_id or "-",
            "from": entry.remote_address or "-",
        }
        for entry in found
    )


def described(session: Session, tenant: Tenant) -> dict[str, str]:
    """A tenant as a row: what it has, and after a stroke what it may have."""
    use = tenants.use(session, tenant.name)
    has = {"queued": use.queued, "running": use.running, "bytes": use.bytes}
    most = {name: getattr(tenant, f"max_{name}") for name in has}
    quotas = {name: f"{has[name]} / {'-' if most[name] is None else most[name]}" for name in has}
    share = "-" if tenant.share is None else f"{tenant.share:g}"
    return {"tenant": tenant.name, **quotas, "share": share, "created": when(tenant.created_at)}


def shown(key: ApiKey) -> dict[str, str]:
    """A key as a row."""
    ended = f"revoked {when(key.revoked_at)}" if key.revoked_at else when(key.expires_at)
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name or "-",
        "scopes": key.scopes,
        "created": when(key.created_at),
        "used": when(key.last_used_at),
        "ends": ended,
    }


def table(rows: Iterable[dict[str, str]]) -> list[str]:
    """Rows in columns, under their names; nothing where there are none."""
    found = [{name: visible(cell) for name, cell in row.items()} for row in rows]
    if not found:
        print_note("There is nothing to list.")
        return []
    lines = [[*found[0]], *([*row.values()] for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def when(seconds: float | None) -> str:
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def print_note(line: str) -> None:
    print(visible(line), file=sys.stderr)


def as_typed(*words: str) -> str:
    return " ".join(("python -m services", *words))


def changes(options: Options) -> dict[str, Any]:
    """Those limits that were given, and the share."""
    return {name: getattr(options, name) for name in (*LIMITS, "share") if hasattr(options, name)}


def limit_of(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a limit is a number of 0 or more, or none; got {text!r}") from None


def share_of(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a share is a number from 0.01 to 100, or none; got {text!r}") from None


def _problems(error: LooplineError) -> list[str]:
    return [str(problem) for problem in error.problems] if isinstance(error, Invalid) else []


def parser() -> argparse.ArgumentParser:
    """The command line, with an example for each command."""
    about = (__doc__ or "").split("\n")[0].partition(": ")[2]
    top = argparse.ArgumentParser(prog="python -m services", description=about, epilog=_example("tenants list"))
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _tenants(
        _group(
            commands,
            "tenants",
            "create, list and limit teams that cannot see each other",
            "tenants create acme --max-queued 100",
        )
    )
    _keys(
        _group(commands, "keys", "create, list and revoke API keys", "keys create --tenant acme --scopes read,submit")
    )
    one = _command(commands, "audit", list_audit, "audit --tenant acme --limit 20")
    one.add_argument("--tenant", metavar="NAME", help="only what was done to this tenant")
    one.add_argument(
        "--limit", metavar="COUNT", type=int, default=100, help="list at most this many entries; default 100"
    )
    _command(commands, "migrate", migrate, "migrate")
    return top


def _tenants(commands: Commands) -> None:
    _command(commands, "list", list_tenants, "tenants list")
    for one in (
        _command(commands, "create", create_tenant, "tenants create acme --max-queued 100 --max-running 4"),
        _command(commands, "set", set_tenant, "tenants set acme --max-queued none"),
    ):
        one.add_argument("name", metavar="NAME")
        for limit, what in LIMITS.items():
            option, about = f"--{limit.replace('_', '-')}", f"{what}; `none` is no limit"
            one.add_argument(option, metavar="N", type=limit_of, default=argparse.SUPPRESS, help=about)
        about = "its turns in a queue for each turn of a tenant without a share; `none` means 1"
        one.add_argument("--share", metavar="X", type=share_of, default=argparse.SUPPRESS, help=about)


def _keys(commands: Commands) -> None:
    one = _command(commands, "create", create_key, "keys create --tenant acme --scopes read,submit --name ci")
    one.add_argument(
        "--tenant", metavar="NAME", default=tenants.DEFAULT, help="the tenant of the key; default `default`"
    )
    scopes = f"one or more of {','.join(keys.Scope)}; separated by commas; default read,submit"
    one.add_argument("--scopes", metavar="SCOPES", default="read,submit", help=scopes)
    one.add_argument("--name", help="a name that says what the key is for")
    one.add_argument("--expires-days", metavar="DAYS", type=float, help="the key expires after this many days")
    one = _command(commands, "list", list_keys, "keys list --tenant acme")
    one.add_argument("--tenant", metavar="NAME", help="only those of this tenant")
    one = _command(commands, "revoke", revoke_key, "keys revoke key_01m8534rdzpk2b2nwmwmj4v6dg")
    one.add_argument("id", metavar="ID")


def _group(commands: Commands, name: str, about: str, example: str) -> Commands:
    group = commands.add_parser(name, help=about, description=about, epilog=_example(example))
    return group.add_subparsers(required=True, metavar="COMMAND")


def _command(commands: Commands, name: str, command: Command, example: str) -> argparse.ArgumentParser:
    about = (command.__doc__ or "").strip()
    one = commands.add_parser(name, help=about[:1].lower() + about[1:-1], description=about, epilog=_example(example))
    one.set_defaults(command=command)
    return one


def _example(arguments: str) -> str:
    return f"example: {as_typed(arguments)}"


if __name__ == "__main__":
    status = main()
    gc.freeze()  # or the interpreter searches all modules for garbage at its end
    sys.exit(status)
