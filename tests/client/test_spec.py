from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopline import BadRequest
from loopline.spec import SpecFile, again, dataset_name, is_path, read, with_local_dataset

YAML = """\
# a comment
name: vowels
training: {epochs: 20, optimizer: {name: adam, lr: 1e-3}}
data:
  dataset: "./vowels.npz"
tags: {answer: no}
"""


def spec(text: str = YAML, media_type: str = "application/yaml") -> SpecFile:
    return SpecFile(text, media_type, Path())


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(YAML)
    (tmp_path / "job.json").write_text('{"name": "x"}')
    assert read(tmp_path / "job.yaml") == SpecFile(YAML, "application/yaml", tmp_path)
    assert read(str(tmp_path / "job.json")) == SpecFile('{"name": "x"}', "application/json", tmp_path)


def test_a_mapping_is_sent_as_json() -> None:
    sent = read({"name": "é", "data": {"dataset": Path("vowels")}})
    assert json.loads(sent.text) == {"name": "é", "data": {"dataset": "vowels"}}
    assert sent.media_type == "application/json"


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_a_mapping_that_has_no_json_is_refused(value: object) -> None:
    with pytest.raises(BadRequest, match="cannot be sent as JSON"):
        read({"name": value})


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"Cannot read .*none\.yaml: No such file or directory\."):
        read(tmp_path / "none.yaml")


def test_a_binary_file_is_no_spec(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BadRequest, match="not a text file"):
        read(tmp_path / "job.yaml")


def test_setting_a_field_leaves_every_other_word_as_it_was_written() -> None:
    changed = spec()
    changed.set(("training", "epochs"), "5")
    changed.set(("training", "optimizer", "lr"), "3e-4")
    changed.set(("limits", "max_retries"), "null")
    assert "epochs: 5" in changed.text
    assert "lr: 3e-4" in changed.text
    assert "answer: no" in changed.text
    assert "max_retries: null" in changed.text
    assert changed.text.count("epochs") == 1


def test_a_value_may_be_a_mapping_or_a_list() -> None:
    changed = spec("{}")
    changed.set(("data", "synthetic"), "{samples: 10, length: 5}")
    assert yaml.safe_load(changed.text) == {"data": {"synthetic": {"samples": 10, "length": 5}}}


def test_text_that_is_set_verbatim_stays_text_whatever_it_says() -> None:
    changed = spec()
    changed.set(("name",), "1e3: [x", verbatim=True)
    assert yaml.safe_load(changed.text)["name"] == "1e3: [x"


def test_json_with_tabs_can_be_changed() -> None:
    changed = spec('{\n\t"training": {\n\t\t"epochs": 5}}', "application/json")
    changed.set(("training", "epochs"), "7")
    assert yaml.safe_load(changed.text) == {"training": {"epochs": 7}}


def test_a_path_through_something_else_than_a_mapping_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"Cannot set name\.first: name is not a mapping\."):
        spec().set(("name", "first"), "x")


def test_a_value_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(BadRequest, match="This is not YAML"):
        spec().set(("name",), "[")


def test_a_data_set_beside_the_spec_is_uploaded_and_named_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "vowels.npz").write_bytes(b"")
    uploaded: list[tuple[Path, Mapping[str, Any]]] = []

    def upload(path: Path, schema: Mapping[str, Any]) -> str:
        uploaded.append((path, schema))
        return "vowels@3"

    sent = with_local_dataset(SpecFile(YAML, "application/yaml", tmp_path), upload)
    assert uploaded == [(tmp_path / "vowels.npz", {})]
    assert yaml.safe_load(sent.text)["data"] == {"dataset": "vowels@3"}
    assert "lr: 1e-3" in sent.text


def test_a_data_set_that_is_not_there_is_a_problem_of_the_spec(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        with_local_dataset(SpecFile(YAML, "application/yaml", tmp_path), lambda *_: "never")
    assert [problem.pointer for problem in refused.value.problems] == ["/data/dataset"]
    assert "there is no file" in str(refused.value)
    assert "did you mean" not in str(refused.value)


def test_a_data_set_that_is_misspelt_is_named(tmp_path: Path) -> None:
    (tmp_path / "windows.csv").touch()
    with pytest.raises(BadRequest, match=r"there is no file .*/windoes\.csv; did you mean windows\.csv\?"):
        with_local_dataset(SpecFile("data: {dataset: windoes.csv}", "application/yaml", tmp_path), lambda *_: "never")


@pytest.mark.parametrize("text", ["data: {dataset: vowels}", "data: {synthetic: {}}", "[", "", "data: 3", "- 1"])
def test_what_names_no_file_is_left_to_the_service(text: str) -> None:
    sent = spec(text)
    assert with_local_dataset(sent, lambda _: "never") is sent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vowels", False),
        ("vowels@3", False),
        ("v1.2", False),
        ("./a", True),
        ("a.NPZ", True),
        ("~/a", True),
        ("a/b", True),
    ],
)
def test_a_path_is_told_from_a_name(name: str, expected: bool) -> None:
    assert is_path(name) is expected


@pytest.mark.parametrize(
    ("file", "name"),
    [("vowels.npz", "vowels"), ("My Vowels (2).npz", "my-vowels-2"), ("v1.2.npz", "v1.2"), ("日本.npz", "data")],
)
def test_a_data_set_is_named_after_its_file(file: str, name: str) -> None:
    assert dataset_name(Path(file)) == name


def test_a_trial_is_tested_when_it_is_submitted_once_more() -> None:
    spec = {"data": {"dataset": "vowels", "split": {"test": 0.2, "evaluate_test": False}}}
    for is_trial, split in ((True, {"test": 0.2}), (False, {"test": 0.2, "evaluate_test": False})):
        sent = json.loads(again(spec, "ds_1", {}, {}, is_trial=is_trial).text)
        assert sent["data"] == {"dataset": "ds_1", "split": split}
    changed = again(spec, "ds_1", {"data.split.evaluate_test": "false"}, {}, is_trial=True)
    assert changed.value(("data", "split", "evaluate_test")) == "false"


def test_a_forecast_of_an_older_service_reads_no_calendar_when_it_is_submitted_once_more() -> None:
    for had, has in (({}, "none"), ({"calendar": ["hour"]}, ["hour"])):
        spec = {"task": {"name": "forecast", **had}, "data": {"dataset": "loads"}}
        assert json.loads(again(spec, "ds_1", {}, {}).text)["task"] == {"name": "forecast", "calendar": has}
    assert "calendar" not in again({"task": {"name": "regression"}}, None, {}, {}).text
