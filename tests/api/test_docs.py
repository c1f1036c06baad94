from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api import schemas
from services.training.spec import parse


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/v1/openapi.json").get_json()
    return answer


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_the_document_is_openapi_3_1_and_covers_every_route(app: Flask, document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    routes = {
        (re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith(("docs.", "pages.", "cards.", "guide."))
    }
    assert {(path, method) for path, item in document["paths"].items() for method in item} == routes


def test_every_operation_has_an_id_a_summary_and_problem_answers(document: dict[str, Any]) -> None:
    found = operations(document)
    assert len({operation["operationId"] for operation in found}) == len(found)
    for operation in found:
        assert operation["summary"]
        for status, answer in operation["responses"].items():
            if status >= "400" and operation["operationId"] not in ("isReady", "isWorking"):
                assert list(answer["content"]) == ["application/problem+json"], (operation["operationId"], status)
        assert {"400", "422", "500", "503"} <= set(operation["responses"])


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"], reference


def test_the_spec_in_the_document_is_the_spec(document: dict[str, Any]) -> None:
    either = [{"$ref": f"#/components/schemas/{kind}"} for kind in ("Spec", "Predict")]
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"anyOf": either}
    spec = document["components"]["schemas"]["Spec"]
    assert spec["additionalProperties"] is False
    assert spec["required"] == ["data"]
    assert document["components"]["schemas"]["Job"]["properties"]["spec"]["anyOf"] == either


@pytest.mark.parametrize("example", [schemas.SPEC_EXAMPLE, schemas.PRESET_EXAMPLE])
def test_the_examples_are_specs(example: dict[str, Any]) -> None:
    parse(example)


def test_the_documentation_works_without_the_internet(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert page.mimetype == "text/html"
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.get_data(as_text=True))
    assert links
    for link in links:
        assert link.startswith(("/", "data:"))
        if link.startswith("/"):
            with client.get(link) as answer:
                assert answer.status_code == 200, link
    assert "<script>" not in page.get_data(as_text=True)  # the policy would stop it
    assert client.get("/docs/docs.js", buffered=True).status_code == 200
    assert client.get("/docs/swagger-ui.js").status_code == 404
