"""When a schedule is due: cron expressions, read in a time zone. Asks neither a clock nor the database.

Five fields as in Debian's cron, with its rules for the days on which clocks change: an expression that names its minute
and hour comes once on every day that has it, right after the gap where its time does not exist and the first time where
it comes twice; one whose minute or hour begins with `*` goes by the time that passes. Read by cronsim.
"""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import cache
from itertools import islice, pairwise

from cronsim import CronSim, CronSimError

NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MOST_CHARACTERS = 200
EXAMPLE = "try `30 2 * * *` (02:30 every night), `0 6 * * MON-FRI`, `*/15 * * * *` or `@daily`"

_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, or L for the last",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 (0 and 7 are Sunday) or SUN to SAT",
}
_NO_ZONES = frozenset({"localtime", "Factory"})
"""Names in the database of time zones that stand for another zone on each machine, or for none."""
_GAPS = 50
"""So many waits between two slots are looked at for the shortest one."""


def problem(cron: str) -> str | None:
    """What is wrong with an expression, and an example; None where nothing is."""
    if len(cron) > MOST_CHARACTERS:
        return f"has {len(cron):,} characters and may have {MOST_CHARACTERS}; {EXAMPLE}"
    if cron.startswith("@"):
        return None if cron in NAMED else f"is none of {', '.join(NAMED)}"
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        return f"has {len(fields)} fields and must have 5 (minute, hour, day of month, month, day of week); {EXAMPLE}"
    for place, (field, allowed) in enumerate(_FIELDS.items()):
        if not _reads(" ".join(text if at == place else "*" for at, text in enumerate(fields))):
            return f"has `{fields[place]}` for the {field.replace('-', ' ')}, which is {allowed}; {EXAMPLE}"
    if not _reads(cron) or next(slots(cron, "UTC", 0.0), None) is None:
        return f"never comes: no year has such a day; {EXAMPLE}"
    return None


def zone_problem(name: str) -> str | None:
    """What is wrong with the name of a time zone, with one that was perhaps meant; None where nothing is."""
    if name in zones():
        return None
    by_end = {zone.rpartition("/")[2].lower(): zone for zone in sorted(zones(), reverse=True)}
    by_name = {zone.lower(): zone for zone in zones()}
    wanted = name[:100].lower().replace(" ", "_")
    near = [found[key] for found in (by_name, by_end) for key in difflib.get_close_matches(wanted, found, 1, 0.75)]
    guess = f"; did you mean {near[0]}?" if near else ""
    return f"is no time zone of IANA's, such as Europe/Berlin or UTC{guess}"


@cache
def zones() -> frozenset[str]:
    """The names of every time zone. What a client sends is looked up here before it could come to be a path."""
    return frozenset(zoneinfo.available_timezones()) - _NO_ZONES


def zone(name: str) -> tzinfo:
    """The time zone of this name, which is one of `zones()`."""
    return UTC if name == "UTC" else zoneinfo.ZoneInfo(name)


def slots(cron: str, time_zone: str, after: float) -> Iterator[float]:
    """Every moment after `after` at which a right expression is due, ascending; both in seconds since 1970.

    Ends where nothing comes for 50 years.
    """
    # Within an hour that comes twice cronsim begins again with the first time, which may be before `after`.
    newest = after
    for moment in CronSim(NAMED.get(cron, cron), datetime.fromtimestamp(after, zone(time_zone))):
        if (slot := moment.timestamp()) > newest:
            newest = slot
            yield slot


def shortest_wait(cron: str, time_zone: str, after: float) -> float:
    """Seconds between the two slots that are closest to each other, of those that come next."""
    coming = islice(slots(cron, time_zone, after), _GAPS)
    return min((later - earlier for earlier, later in pairwise(coming)), default=float("inf"))


def local(slot: float, time_zone: str) -> datetime:
    """A moment as the clocks of the zone show it."""
    return datetime.fromtimestamp(slot, zone(time_zone))


def _reads(cron: str) -> bool:
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError):  # of a number with thousands of digits Python itself says the latter
        return False
    return True
