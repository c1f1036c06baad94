"""Texts: the words, the vocabulary, the network beside plain PyTorch, and what holds of every text."""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopline.files.sequences import Column
from loopline.preprocessing.texts import UNKNOWN, Vocabulary
from loopline.preprocessing.tokens import tokens
from torch import nn

from services.errors import DatasetInvalid, SpecInvalid
from services.training import checkpoint
from services.training import run as runs
from services.training.data import part_of
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.gate import drift
from services.training.gate.verdict import Retraining
from services.training.loop import Run, answers, fit, in_rows
from services.training.messages import Finished, SavedModel
from services.training.spec import check_data, parse
from services.training.spec.footprint import footprint
from services.training.splits import split_rows
from tests.properties import examples
from tests.training.building import (
    classes,
    document,
    make_run,
    of_texts,
    same,
    spec_for,
    texts,
    timeless,
    trained,
    weights_of,
)

CPU = torch.device("cpu")
SPLIT = {"validation": 0.2, "test": 0.2}


def vocabulary_of(run: Run) -> Vocabulary:
    assert run.data.preprocessing.text is not None
    return run.data.preprocessing.text


def numbers(run: Run, text: str) -> list[int]:
    """What the network reads of one text."""
    found, _ = vocabulary_of(run).applied([text], run.data.preprocessing.steps.choices)
    return [int(code) for code in found[:, 0]]


def test_a_text_is_cut_into_words_or_characters() -> None:
    assert tokens("Don't stop_2: É!", "words", lowercase=False) == ["Don", "'", "t", "stop_2", ":", "É", "!"]
    assert tokens("A\tb", "characters", lowercase=True) == ["a", "\t", "b"]
    assert tokens("cafe\u0301", "words", lowercase=False) == ["caf\u00e9"]


@given(st.text(), st.sampled_from(["words", "characters"]), st.booleans())
def test_no_letter_is_lost_and_both_forms_of_unicode_are_the_same(text: str, by: Any, lowercase: bool) -> None:
    found = tokens(text, by, lowercase=lowercase)
    assert found == tokens(unicodedata.normalize("NFD", text), by, lowercase=lowercase)
    if not lowercase:
        whole = unicodedata.normalize("NFC", text)
        assert "".join(found) == (whole if by == "characters" else "".join(whole.split()))


def test_the_most_frequent_entries_are_kept_and_equal_ones_by_code_point() -> None:
    found = ["b b b z z a a q ä ä", "Z once"] * 2
    split = np.zeros(4, np.int8)
    arrays = of_texts(found, np.arange(4) % 2, split=split)
    run = make_run(arrays, data={"text": {"by": "words", "max_vocabulary": 4}, "split": {"validation": 0.0}})
    assert vocabulary_of(run).entries == ("b", "z", "a", "ä")
    assert numbers(run, "b ä q new") == [2, 5, UNKNOWN, UNKNOWN]
    assert numbers(run, "") == [UNKNOWN]
    frequent = {"by": "words", "min_count": 3, "lowercase": False}
    run = make_run(arrays, data={"text": frequent, "split": {"validation": 0.0}})
    assert vocabulary_of(run).entries == ("b", "a", "z", "ä")


def test_words_that_only_other_splits_have_are_unknown() -> None:
    arrays = texts()
    run = make_run(arrays, data={"text": {"min_count": 1}, "split": SPLIT})
    assert arrays.texts is not None
    told = arrays.texts.copy()
    others = np.concatenate([run.data.rows["validation"], run.data.rows["test"]])
    for row in others:
        told[row] = f"{told[row]} planted{row % 2} planted{row % 2}"
    marks = np.zeros(len(arrays), np.int8)
    marks[run.data.rows["validation"]], marks[run.data.rows["test"]] = 1, 2
    given_split = {"data": {"text": {"min_count": 1}, "split": {"validation": "given", "test": "given"}}}
    before = make_run(replace(arrays, split=marks), **given_split)
    after = make_run(replace(arrays, texts=told, split=marks), **given_split)
    assert vocabulary_of(before) == vocabulary_of(after)
    assert numbers(after, "planted0 planted1 great")[:2] == [UNKNOWN, UNKNOWN]
    trained(before), trained(after)
    assert [e["train_loss"] for e in before.state.history] == [e["train_loss"] for e in after.state.history]


def test_the_network_is_that_of_plain_pytorch() -> None:
    arrays = texts()
    run = make_run(arrays, data={"text": {"embedding_size": 4}, "split": SPLIT})
    vocabulary = vocabulary_of(run)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(2 + len(vocabulary.entries), 4, padding_idx=0)
            self.rnn = nn.GRU(4, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, words: list[torch.Tensor]) -> torch.Tensor:
            lengths = torch.tensor([len(each) for each in words])
            padded = self.words(nn.utils.rnn.pad_sequence(words, batch_first=True))
            packed = nn.utils.rnn.pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
            _, hidden = self.rnn(packed)
            logits: torch.Tensor = self.head(hidden[-1])
            return logits

    torch.manual_seed(run.training.seed)
    plain = Plain()
    ours, theirs = list(run.model.parameters()), list(plain.parameters())
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)), "drawn in the same order"
    assert arrays.texts is not None
    place = {word: 2 + number for number, word in enumerate(vocabulary.entries)}
    rows = run.data.rows["train"]
    words = [
        torch.tensor([place.get(word, 1) for word in tokens(text, "words", lowercase=True)])
        for text in arrays.texts[rows]
    ]
    found = in_rows(*answers(run.model, run.data.train, CPU, "float32", 7))
    torch.testing.assert_close(found, plain(words).detach(), rtol=0, atol=1e-6)


def test_a_class_that_one_word_says_is_learnt() -> None:
    run = make_run(
        texts(120),
        architecture={"hidden_size": 16, "pooling": "max"},
        training={"epochs": 25, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.03}},
        data={"split": SPLIT},
    )
    assert trained(run)[-1]["validation_accuracy"] == 1.0


def test_the_vector_of_padding_stays_zero_and_that_of_unknown_words_is_trained() -> None:
    run = make_run(texts(), data={"text": {"min_count": 4}, "split": SPLIT})
    before = run.model.embeddings[0].weight.detach().clone()
    trained(run)
    after = run.model.embeddings[0].weight
    assert not after[0].any()
    assert (after[UNKNOWN] != before[UNKNOWN]).any()


PREPARATIONS = st.fixed_dictionaries(
    {
        "text": st.fixed_dictionaries(
            {
                "by": st.sampled_from(["words", "characters"]),
                "lowercase": st.booleans(),
                "max_vocabulary": st.sampled_from([3, 20_000]),
                "min_count": st.integers(1, 3),
            }
        ),
        "max_length": st.sampled_from([None, 1, 5, 1000]),
        "stride": st.integers(1, 3),
        "patch": st.integers(1, 3),
        "bucketing": st.booleans(),
        "split": st.just(SPLIT),
    }
).flatmap(
    lambda drawn: st.sampled_from(["start", "end"] if drawn["max_length"] else ["end"]).map(
        lambda cut: {**drawn, "cut": cut}
    )
)
ARCHITECTURES = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(["rnn", "lstm", "gru"]),
        "bidirectional": st.booleans(),
        "pooling": st.sampled_from(["last", "final", "mean", "max", "attention"]),
        "hidden_size": st.just(4),
    }
)


@examples(20)
@given(preparation=PREPARATIONS, architecture=ARCHITECTURES)
def test_padding_never_changes_an_answer(preparation: dict[str, Any], architecture: dict[str, Any]) -> None:
    arrays = texts()
    run = make_run(arrays, data=preparation, architecture=architecture)
    rows = run.data.rows["train"]

    def answered(rows: np.ndarray[Any, Any], batch: int) -> torch.Tensor:
        part = part_of(arrays, rows, run.data.preprocessing)
        return in_rows(*answers(run.model, part, CPU, "float32", batch))

    together = answered(rows, len(rows))
    alone = torch.cat([answered(rows[[place]], 1) for place in range(len(rows))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@examples(10)
@given(preparation=PREPARATIONS, updates=st.integers(1, 14))
def test_a_resumed_run_is_the_same_run(preparation: dict[str, Any], updates: int) -> None:
    def begun() -> Run:
        return make_run(texts(), data=preparation, architecture={"head_dropout": 0.3}, training={"epochs": 3})

    whole = begun()
    trained(whole)
    part = begun()
    for _ in islice(fit(part), updates):
        pass
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(part, Path(folder))
        again = begun()
        assert checkpoint.resume(again, Path(folder)) is not None
    trained(again)
    assert timeless(again.state.history) == timeless(whole.state.history)
    assert same(weights_of(again), weights_of(whole))


def test_what_is_cut_off_is_not_counted_either() -> None:
    arrays = of_texts(["a b c c", "a b d d", "a b e e", "a b f f"] * 3, np.arange(12) % 2)
    run = make_run(arrays, data={"text": {"by": "words"}, "max_length": 2})
    assert vocabulary_of(run).entries == ("a", "b")
    assert run.data.train.steps.tolist() == [2] * len(run.data.train)
    run = make_run(arrays, data={"text": {"by": "words"}, "max_length": 2, "cut": "start"})
    assert set(vocabulary_of(run).entries) <= set("cdef")


def test_short_texts_are_read_by_characters_and_others_by_words() -> None:
    names = of_texts(["Anna", "Per Olof", "Chloë"] * 8, np.arange(24) % 2)
    read = [spec_for(arrays).data.text for arrays in (names, texts())]
    assert [text.by for text in read if text is not None] == ["characters", "words"]
    chosen = spec_for(names, data={"text": {"by": "words"}}).data.text
    assert chosen is not None
    assert chosen.by == "words"


def test_what_does_not_go_together_is_refused_with_a_way_out() -> None:
    with pytest.raises(SpecInvalid, match="this data set has none: leave it out"):
        spec_for(classes(), data={"text": {"by": "words"}})
    with pytest.raises(SpecInvalid, match="here are texts: leave it out"):
        spec_for(texts(), data={"differences": "append"})
    with pytest.raises(DatasetInvalid, match="words of the training split occurs 1,000 times: lower it"):
        make_run(texts(), data={"text": {"min_count": 1000}})


def test_one_long_text_costs_its_own_length_only() -> None:
    arrays = of_texts(["a b c"] * 999 + ["a " * 100_000], np.arange(1000) % 2)
    run = make_run(arrays, data={"text": {"by": "words"}})
    held = run.data.train.x.nbytes + (run.data.validation.x.nbytes if run.data.validation else 0)
    assert held == 4 * (999 * 3 + 100_000)
    assert footprint(run.spec, npz.summarise(arrays)).data < 1_000_000


def test_a_network_is_no_larger_than_was_expected() -> None:
    arrays = texts()
    run = make_run(arrays, data={"text": {"max_vocabulary": 8, "embedding_size": 3}})
    counted = footprint(run.spec, npz.summarise(arrays))
    assert counted.parameters == sum(weight.numel() for weight in run.model.parameters())


def test_a_split_by_content_goes_by_the_text() -> None:
    arrays = texts(200)
    assert arrays.texts is not None
    split = spec_for(arrays, data={"split": {"method": "content", "validation": 0.3}}).data.split
    rows = split_rows(arrays, split)["validation"]
    assert 30 < len(rows) < 90
    again = split_rows(arrays.chosen(np.arange(100)), split)["validation"]
    assert again.tolist() == [row for row in rows.tolist() if row < 100]


# ---- the gate and warm starts


def finished(arrays: Arrays, folder: Path, before: Path | None = None, *, warm: bool = False, **data: Any) -> Any:
    """A retraining, trained to its end: its result, and what it said at the beginning."""
    retrain = {"model": "m", "warm_start": "production" if warm else None, "gate": {"metric": "loss"}}
    spec = check_data(parse(document(data={"split": SPLIT, **data}, retrain=retrain)), npz.summarise(arrays))
    named = None if before is None else SavedModel("m@1", str(before))
    retraining = Retraining(spec, arrays, CPU, {"against": named, "warm_start": named if warm else None})
    notes = [getattr(event, "message", "") for event in retraining.beginning()]
    run = Run(spec, retraining.data, CPU, retraining.initial)
    trained(run)
    events: Iterator[Any] = runs.finish(run, folder, retraining)
    return next(event.result for event in events if isinstance(event, Finished)), notes


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


def test_a_model_goes_through_the_gate_with_its_own_vocabulary(tmp_path: Path) -> None:
    first, _ = finished(texts(80), tmp_path / "one")
    assert card(tmp_path / "one")["format"] == "loopline-model/5"
    assert "great" in card(tmp_path / "one")["preprocessing"]["text"]["entries"]
    told, _ = finished(texts(80), tmp_path / "two", tmp_path / "one", text={"by": "characters"})
    comparison = told["retrain"]["gate"]["comparison"]
    assert comparison["old"] == pytest.approx(first["metrics"]["test_loss"], rel=1e-5)
    assert comparison["new"] == pytest.approx(told["metrics"]["test_loss"], rel=1e-5)
    assert told["retrain"]["drift"]["features"]["shifted"] == 0


def test_a_warm_start_keeps_the_vocabulary_and_begins_cold_where_it_is_made_otherwise(tmp_path: Path) -> None:
    finished(texts(80), tmp_path / "one")
    told, _ = finished(texts(80, seed=9), tmp_path / "two", tmp_path / "one", warm=True)
    assert told["retrain"]["warm_start"] == "m@1"
    assert card(tmp_path / "one")["preprocessing"] == card(tmp_path / "two")["preprocessing"]
    told, notes = finished(texts(80), tmp_path / "three", tmp_path / "one", warm=True, text={"by": "characters"})
    assert told["retrain"]["warm_start"] is None
    assert "has another vocabulary (data.text.by is words there, and characters here)" in notes[0]
    arrays = texts(80)
    assert arrays.texts is not None
    newer = replace(arrays, texts=arrays.texts + " brandnew")
    told, notes = finished(newer, tmp_path / "four", tmp_path / "one", warm=True)
    assert told["retrain"]["warm_start"] is None
    assert re.search(r"has an old vocabulary, which lacks \d+% of the words in the training texts", notes[0])
    assert "brandnew" in card(tmp_path / "four")["preprocessing"]["text"]["entries"]


def test_a_model_of_numbers_is_not_asked_about_texts(tmp_path: Path) -> None:
    finished(classes(80, kinds=2), tmp_path / "one")
    told, _ = finished(texts(80), tmp_path / "two", tmp_path / "one")
    assert "takes no texts, and the data has texts" in told["retrain"]["gate"]["message"]


def test_drift_is_told_of_the_characters_and_lengths_of_texts() -> None:
    arrays = texts(200)
    assert arrays.texts is not None
    rows = np.arange(200)
    profile = json.loads(json.dumps(drift.profile(drift.sample(arrays, rows)), allow_nan=False))
    same_ones = drift.between(profile, drift.sample(texts(200, seed=8), rows))
    assert not same_ones["shifted"]
    greek = np.array([text.translate({ord("e"): "ε", ord("o"): "ω"}) for text in arrays.texts], np.object_)
    assert drift.between(profile, drift.sample(replace(arrays, texts=greek), rows))["features"]["shifted"] == 1
    longer = replace(arrays, texts=arrays.texts + " " + arrays.texts)
    assert drift.between(profile, drift.sample(longer, rows))["length"] > 0.2


def test_values_of_a_text_stand_beside_it() -> None:
    """The value is the class: the text says nothing."""
    y = np.arange(60) % 2
    static = np.stack((y * 10.0 + 5.0, y.astype(np.float64)), axis=1)
    columns = (Column("age"), Column("sex", "category", ("f", "m")))
    arrays = of_texts(["the same text"] * 60, y, static=static, static_columns=columns)
    run = make_run(arrays, data={"scaling": "standard"}, training={"epochs": 20, "optimizer": {"lr": 0.1}})
    assert run.data.static_size == 3
    assert trained(run)[-1]["validation_accuracy"] == 1.0
