"""One message on its way: signed as the specification says, encrypted for the name that was asked for."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from services.settings import networks
from services.webhooks import posting
from services.webhooks.addresses import Guard
from services.webhooks.posting import SendResult, new_secret, post, sign
from tests.receiving import receiving

PAGE = Path(__file__).parents[3] / "docs" / "webhooks.md"
HERE = Guard(networks("127.0.0.0/8,::1"), https_only=True)


def send(url: str, secret: str = "") -> SendResult:
    return post(HERE, url, [secret or new_secret()], "msg_1", b'{"type":"webhook.test"}')


def test_a_signature_is_that_of_the_specifications_library() -> None:
    at, secret, body = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), new_secret(), '{"type":"job.failed","data":"ü"}'
    own = sign(secret, "msg_1", int(at.timestamp()), body.encode())
    assert own == Verifier(secret).sign("msg_1", at, body)


def test_the_receiver_in_the_documents_takes_what_is_sent_and_nothing_that_was_changed() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    secret = new_secret()
    there: dict[str, Any] = {"__name__": "receiver"}
    exec(code.replace('"whsec_..."', repr(secret)), there)  # noqa: S102  (our own page)
    app: Flask = there["app"]
    with receiving() as receiver:
        assert send(receiver.url, secret).delivered
        [request] = receiver.received
    body = request.body.replace(b"webhook.test", b'job.failed","data":{"id":"job_1"},"x":"')
    client = app.test_client()
    app.testing = True
    with pytest.raises(WebhookVerificationError):
        client.post("/loopline", data=body, headers=request.headers)
    full = b'{"type":"job.failed","data":{"id":"job_1"}}'
    headers = {
        **request.headers,
        "webhook-signature": sign(secret, "msg_1", int(request.headers["webhook-timestamp"]), full),
    }
    assert client.post("/loopline", data=full, headers={**headers, "content-length": str(len(full))}).status_code == 204


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """What a server needs that is `localhost`, and whose certificate this process trusts."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    posting._tls.cache_clear()
    yield context
    posting._tls.cache_clear()


def test_https_is_for_the_name_that_was_asked_for_at_the_address_that_was_judged(tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)  # type: ignore[assignment,return-value]
    with receiving(tls) as receiver:
        assert send(f"https://localhost:{receiver.port}/hook?a=b") == SendResult(204, None)
        [request] = receiver.received
        assert (request.path, request.headers["host"]) == ("/hook?a=b", f"localhost:{receiver.port}")
        assert names == ["localhost"]
        other = send(f"https://127.0.0.1:{receiver.port}/hook")  # the certificate is for another name
        assert "certificate verify failed" in (other.error or "")
        plain = send(f"http://127.0.0.1:{receiver.port}/hook")
        assert not plain.delivered
        assert len(receiver.received) == 1


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with receiving() as receiver:
        assert send(receiver.url).delivered
