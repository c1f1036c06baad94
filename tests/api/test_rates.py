"""Rates: counted for all processes together, said with Retry-After, and never in the way because the broker is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask

from api.rates import PREFIX, Rate, Rates
from services import db
from services.access import keys
from services.errors import RateLimited
from tests.ports import valkey_on_a_free_port

Make = Callable[..., Flask]


@pytest.fixture
def make_keyed(make_app: Make, sqlite_url: str) -> Callable[..., tuple[Flask, dict[str, str]]]:
    """A factory of apps that ask for keys, each with the headers of a good one."""

    def make(**settings: Any) -> tuple[Flask, dict[str, str]]:
        app = make_app(sqlite_url, auth="keys", **settings)
        with db.session_scope(app.extensions["loopline"].engine) as session:
            text = keys.create(session, "default", ["read"]).text
        return app, {"Authorization": f"Bearer {text}"}

    return make


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("200 per 10 seconds", Rate(200, 10)),
        ("5 per minute", Rate(5, 60)),
        ("7 per 2 hours", Rate(7, 7200)),
        ("none", None),
    ],
)
def test_a_rate_is_read_from_words(text: str, rate: Rate | None) -> None:
    assert Rate.parse(text) == rate


def test_too_many_requests_are_429_and_say_when_to_go_on(make_keyed: Callable[..., Any], broker_url: str) -> None:
    app, good = make_keyed(broker_url=broker_url, rate_limit="3 per hour")
    client = app.test_client()
    assert [client.get("/v1/jobs", headers=good).status_code for _ in range(3)] == [200] * 3
    answer = client.get("/v1/jobs", headers=good)
    assert (answer.status_code, answer.get_json()["code"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert client.get("/v1/health/live", headers=good).status_code == 200  # what is open is not counted
    with redis.Redis.from_url(broker_url) as broker:
        [name] = broker.keys()
        assert name.decode().startswith(f"{PREFIX}key:key_")
        assert 3600 < broker.ttl(name) <= 7200  # counts go away by themselves


def test_processes_count_together_and_keys_apart(
    make_keyed: Callable[..., Any], broker_url: str, sqlite_url: str, make_app: Make
) -> None:
    one, good = make_keyed(broker_url=broker_url, rate_limit="3 per hour")
    other, good_too = make_keyed(broker_url=broker_url, rate_limit="3 per hour")
    asked = [app.test_client().get("/v1/jobs", headers=good).status_code for app in (one, other, one, other)]
    assert asked == [200, 200, 200, 429]
    assert one.test_client().get("/v1/jobs", headers=good_too).status_code == 200


def test_a_window_that_is_over_counts_no_more(broker_url: str) -> None:
    now = 1000.0
    rates = Rates(broker_url, Rate(1, 10), clock=lambda: now)
    rates.count("key", "a")
    with pytest.raises(RateLimited, match="more than 1 requests in 10 s; go on in 10 s") as refused:
        rates.count("key", "a")
    assert refused.value.retry_after_seconds == 10
    now = 1009.5
    with pytest.raises(RateLimited) as refused:
        rates.count("key", "a")
    assert refused.value.retry_after_seconds == 1
    now = 1010.0
    rates.count("key", "a")
    rates.close()


def test_wrong_keys_are_counted_by_address_and_right_ones_pass(make_keyed: Callable[..., Any], broker_url: str) -> None:
    app, good = make_keyed(broker_url=broker_url)
    client = app.test_client()
    wrong = {"Authorization": "Bearer ll_wrong"}
    asked = [client.get("/v1/jobs", headers=wrong).status_code for _ in range(12)]
    assert asked == [401] * 10 + [429] * 2
    assert int(client.get("/v1/jobs", headers=wrong).headers["Retry-After"]) <= 60
    assert client.get("/v1/jobs", headers=good).status_code == 200  # from the same address
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.get("/v1/jobs", headers=wrong, environ_overrides=elsewhere).status_code == 401
    assert client.get("/v1/jobs").status_code == 401  # who shows none guesses none


def test_where_no_key_is_needed_there_is_no_limit(make_app: Make, sqlite_url: str, broker_url: str) -> None:
    client = make_app(sqlite_url, broker_url=broker_url, rate_limit="1 per hour").test_client()
    assert [client.get("/v1/presets").status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_broker_that_is_away_costs_little_and_its_counts_are_made_here(
    make_keyed: Callable[..., Any], how: str
) -> None:
    with valkey_on_a_free_port() as server:
        app, good = make_keyed(broker_url=f"{server.connection_url}/0", rate_limit="5 per hour")
        client = app.test_client()
        assert client.get("/v1/presets", headers=good).status_code == 200
        with redis.Redis.from_url(server.connection_url) as broker:
            pid = int(broker.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP if how == "frozen" else signal.SIGKILL)
        try:
            began = time.monotonic()
            asked = [client.get("/v1/presets", headers=good).status_code for _ in range(6)]
            assert time.monotonic() - began < 20  # a fifth of a second once, or a connection refused
            assert asked == [200] * 5 + [429]  # it counts from anew
        finally:
            if how == "frozen":
                os.kill(pid, signal.SIGCONT)
