"""The next character or word of a text: streams, vocabulary, plain PyTorch beside it, baselines and samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline.files.sequences import Column
from loopline.preprocessing.texts import UNKNOWN, Vocabulary
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from services.errors import DatasetInvalid, SpecInvalid
from services.training import baseline, checkpoint, sampling
from services.training.bptt import Unrolled
from services.training.continuation import Continuation
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, details, evaluate, fit, unanswered
from services.training.model import SequenceModel
from services.training.ngrams import Ngrams
from services.training.preparing import arrays_for, prepare
from services.training.spec import Spec, check_data, parse
from services.training.spec.fields import Architecture
from services.training.spec.footprint import footprint
from services.training.tasks import next_step
from tests.training.building import (
    classes,
    document,
    events,
    hourly,
    of_texts,
    same,
    texts,
    timeless,
    trained,
    weights_of,
)

LETTERS = "abcdefg,.\n"


def written(lines: list[str], **more: Any) -> Arrays:
    """Texts without labels."""
    return of_texts(lines, np.empty((len(lines), 0), np.int64), **more)


def prose(characters: int = 3000, seed: int = 0) -> list[str]:
    """Lines in which a letter depends on the two before it."""
    rng = np.random.default_rng(seed)
    following = rng.dirichlet(np.full(len(LETTERS), 0.2), (len(LETTERS), len(LETTERS)))
    found = [0, 1]
    for _ in range(characters):
        found.append(int(rng.choice(len(LETTERS), p=following[found[-2], found[-1]])))
    return "".join(LETTERS[code] for code in found).split("\n")


def spec_of(arrays: Arrays, **changes: Any) -> Spec:
    asked = document(**{"task": "next_step", **changes})
    if "split" not in changes.get("data", {}):
        del asked["data"]["split"]
    return check_data(parse(asked), npz.summarise(arrays))


def run_of(arrays: Arrays, **changes: Any) -> Run:
    spec = spec_of(arrays, **changes)
    return Run(spec, prepare(arrays_for(arrays, spec), spec))


def vocabulary_of(run: Run) -> Vocabulary:
    assert run.data.preprocessing.text is not None
    return run.data.preprocessing.text


def part_of(run: Run, name: str) -> Unrolled:
    part = getattr(run.data, name)
    assert isinstance(part, Unrolled)
    return part


def said(run: Run, codes: NDArray[Any]) -> str:
    """Numbers of a vocabulary as text; `?` is unknown."""
    return "".join("?" if code == UNKNOWN else vocabulary_of(run).entries[int(code) - 2] for code in codes)


# ---- data


def test_one_long_text_is_divided_by_place_and_cut_into_streams() -> None:
    lines = prose()
    whole = "\n".join(lines) + "\n"
    run = run_of(written(lines), training={"batch_size": 7, "bptt_steps": 5}, data={"text": {"min_count": 1}})
    sizes = [len(whole) - 2 * round(0.1 * len(whole)), *[round(0.1 * len(whole))] * 2]
    begin, streams = 0, []
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        part = part_of(run, name)
        assert said(run, part.x[:, 0].numpy()) == whole[begin : begin + size - 1]
        assert said(run, part.y.numpy() + 1) == whole[begin + 1 : begin + size]
        streams.append(part.sizes.tolist())
        begin += size
    assert begin == len(whole)
    assert len(streams[0]) == 7
    assert max(streams[0]) - min(streams[0]) <= 1
    assert [len(each) for each in streams[1:]] == [1, 1]  # too short for two streams


def test_an_epoch_reads_each_stream_in_order() -> None:
    run = run_of(written(prose()), training={"batch_size": 7, "bptt_steps": 5})
    part = part_of(run, "train")
    for epoch in (1, 2):
        batches = run.order(epoch).batches
        places = [part.places(rows) for rows in batches]
        for before, after in pairwise(places[:-1]):
            assert np.array_equal(np.sort(before) + 5, np.sort(after))
        assert np.array_equal(np.sort(np.concatenate(places)), np.arange(part.answers))
    assert run.steps_per_epoch == -(-int(part.sizes.max()) // 5)


def test_separate_texts_begin_and_end_with_a_line_break() -> None:
    names = [f"{first}{second}" for first in "abcde" for second in "xyz"] * 2
    run = run_of(written(names), task={"name": "next_step", "joined": False}, data={"text": {"min_count": 1}})
    rows = run.data.rows
    assert sorted(np.concatenate([*rows.values()]).tolist()) == list(range(30))
    assert [len(rows[name]) for name in ("validation", "test")] == [3, 3]
    for name in rows:
        part = part_of(run, name)
        wanted = [names[row] for row in rows[name]]
        assert said(run, part.x[:, 0].numpy()) == "".join(f"\n{each}" for each in wanted)
        assert said(run, part.y.numpy() + 1) == "".join(f"{each}\n" for each in wanted)
        assert part.sizes.tolist() == [3] * len(wanted)


def test_texts_are_joined_if_there_is_nothing_else() -> None:
    lines = prose(200)
    plain, labelled = written(lines), of_texts(lines, np.arange(len(lines)) % 2)
    named = written(lines, groups=np.array([f"n{row}" for row in range(len(lines))]))
    assert spec_of(plain).task == spec_of(plain, task={"name": "next_step", "joined": True}).task
    for arrays in (labelled, named):
        spec = spec_of(arrays)
        assert spec.task is not None
        assert spec.task.model_dump() == {"name": "next_step", "joined": False}
        assert spec.data.split.method == "random"
    assert spec_of(plain).data.split.method == "time"


def test_labels_and_other_columns_of_texts_are_not_read() -> None:
    lines = prose(400)
    labelled = of_texts(
        lines, np.arange(len(lines)) % 2, static=np.ones((len(lines), 1)), static_columns=(Column("age"),)
    )
    changes: dict[str, Any] = {"task": {"name": "next_step", "joined": True}}
    assert same(weights_of(run_of(labelled, **changes)), weights_of(run_of(written(lines), **changes)))


def test_what_stands_in_other_parts_changes_nothing_that_is_learnt() -> None:
    lines = prose()
    whole = "\n".join(lines)
    changed = (
        whole[:2500] + "".join("zz qqq" if letter == "a" else letter for letter in whole[2500:])[: len(whole) - 2500]
    )
    runs = [run_of(written(text.split("\n")), training={"epochs": 2}) for text in (whole, changed)]
    assert vocabulary_of(runs[0]) == vocabulary_of(runs[1])
    assert bool((part_of(runs[1], "test").y == next_step.UNKNOWN).any())
    assert not bool((part_of(runs[0], "test").y == next_step.UNKNOWN).any())
    assert runs[0].data.card()["unknown_share"] == {"train": 0.0, "validation": 0.0, "test": 0.0}
    assert runs[1].data.card()["unknown_share"]["test"] == pytest.approx(
        float((part_of(runs[1], "test").y == next_step.UNKNOWN).double().mean()), abs=1e-6
    )
    for run in runs:
        trained(run)
    first, second = ([record["train_loss"] for record in run.state.history] for run in runs)
    assert first == second
    assert runs[0].state.history[-1]["validation_loss"] != runs[1].state.history[-1]["validation_loss"]


def test_words_are_read_with_their_line_breaks() -> None:
    run = run_of(written(["To be, or", "not to be."] * 20), data={"text": {"by": "words"}})
    assert set(vocabulary_of(run).entries) == {"To", "to", "be", ",", "or", "\n", "not", "."}
    codes = part_of(run, "train").x[:10, 0].numpy()
    found = [vocabulary_of(run).entries[int(code) - 2] for code in codes]
    assert found == ["To", "be", ",", "or", "\n", "not", "to", "be", ".", "\n"]
    assert spec_of(written(["a b"])).data.text.lowercase is False  # type: ignore[union-attr]


def test_weights_of_separate_texts_weigh_their_losses() -> None:
    lines = ["ab" * 10, "ba" * 5, "aa" * 8] * 4
    weights = np.tile([1.0, 2.0, 4.0], 4)
    arrays = written(lines, weights=weights)
    run = run_of(arrays, task={"name": "next_step", "joined": False}, training={"epochs": 1})
    part = part_of(run, "train")
    assert part.weights is not None
    assert float(part.weights.mean()) == pytest.approx(1.0)
    each = [float(part.weights[begin]) for begin in np.cumsum(part.sizes) - part.sizes]
    wanted = weights[run.data.rows["train"]]
    np.testing.assert_allclose(np.array(each) / each[0], wanted / wanted[0], rtol=1e-6)
    trained(run)
    with pytest.raises(DatasetInvalid, match="weights are of separate texts"):
        run_of(arrays, task={"name": "next_step", "joined": True})


def test_weights_of_texts_do_not_weigh_their_perplexity() -> None:
    lines = ["ab" * 20, "ba" * 4] * 6
    arrays = written(lines, weights=np.tile([0.96, 5.0], 6))
    split = {"validation": 0.25, "test": 0.25}
    run = run_of(arrays, task={"name": "next_step", "joined": False}, data={"split": split, "text": {"min_count": 1}})
    torch.nn.init.zeros_(run.model.head.weight)
    torch.nn.init.zeros_(run.model.head.bias)
    part, classes = part_of(run, "test"), run.data.output_size  # all of which are equally likely
    assert part.weights is not None
    metrics, places = evaluate(run, part), details(run, part)["places"]
    assert (metrics["perplexity"], metrics["bits_per_step"]) == pytest.approx((classes, math.log2(classes)))
    assert metrics["loss"] == pytest.approx(math.log(classes) * float(part.weights.mean()))
    assert places["perplexity"] == pytest.approx([classes] * len(places["steps"]))
    assert len(places["steps"]) == 2


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(DatasetInvalid, match="validation part has 1 of the 9 characters or words, and needs 2"):
        run_of(written(["abababab"]))
    with pytest.raises(DatasetInvalid, match="There is no vocabulary"):
        run_of(written(["abcdefghijklmnopqrstuvwxyz"]))


# ---- training


class Plain(nn.Module):
    """The language model that one writes by hand."""

    def __init__(self, entries: int, size: int, hidden: int, cell: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, size, padding_idx=0)
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](size, hidden, batch_first=True)
        self.head = nn.Linear(hidden, entries - 1)

    def forward(self, codes: torch.Tensor, state: Any = None) -> Any:
        outputs, state = self.rnn(self.embedding(codes), state)
        return self.head(outputs), state


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_losses_and_perplexity_are_those_of_plain_pytorch(cell: str) -> None:
    """Four equal streams in windows of 16 steps, two epochs, the same seed."""
    whole = "\n".join(prose(2045))[:1999] + "\n"
    arrays = written(whole[:-1].split("\n"))
    training = {"batch_size": 4, "bptt_steps": 16, "epochs": 2, "max_grad_norm": 1.0, "seed": 3}
    split = {"validation": 0.1995, "test": 0.0}
    run = run_of(arrays, architecture={"cell": cell, "hidden_size": 12}, training=training, data={"split": split})
    code = {letter: number for number, letter in enumerate(vocabulary_of(run).entries, 2)}
    numbers = torch.tensor([code.get(letter, 1) for letter in whole])
    train, validation = numbers[:1601], numbers[1601:]
    x, y = train[:-1].view(4, 400), train[1:].view(4, 400) - 1

    torch.manual_seed(3)
    plain = Plain(len(code) + 2, vocabulary_of(run).embedding_size, 12, cell)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    expected, perplexities = [], []
    for _ in range(2):
        state: Any = None
        for begin in range(0, 400, 16):
            outputs, state = plain(x[:, begin : begin + 16], state)
            state = tuple(each.detach() for each in state) if cell == "lstm" else state.detach()
            loss = F.cross_entropy(outputs.flatten(0, 1), y[:, begin : begin + 16].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            expected.append(loss.item())
        with torch.no_grad():
            outputs, _ = plain(validation[None, :-1])
            perplexities.append(math.exp(F.cross_entropy(outputs[0], validation[1:] - 1)))

    found = []
    for record in fit(run):
        if record is not None:
            found += [loss for loss, _ in run.take_reports()[1]]
    assert len(found) == len(expected) == 50
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    history = run.state.history
    np.testing.assert_allclose([record["validation_perplexity"] for record in history], perplexities, rtol=1e-5)
    assert history[0]["train_loss"] == pytest.approx(np.mean(expected[:25]), rel=1e-5)
    assert history[0]["train_perplexity"] == pytest.approx(math.exp(history[0]["train_loss"] or 0))
    assert history[0]["train_bits_per_step"] == pytest.approx((history[0]["train_loss"] or 0) / math.log(2))


@pytest.mark.parametrize("after", [1, 4, 9])
@pytest.mark.parametrize("joined", [True, False])
def test_a_run_goes_on_exactly_within_an_epoch(tmp_path: Path, after: int, joined: bool) -> None:
    arrays = written(prose(1500))
    changes: dict[str, Any] = {
        "task": {"name": "next_step", "joined": joined},
        "architecture": {"cell": "lstm", "num_layers": 2, "dropout": 0.2},
        "training": {"bptt_steps": 7, "batch_size": 25, "epochs": 2},
    }
    unbroken = run_of(arrays, **changes)
    trained(unbroken)
    run = run_of(arrays, **changes)
    for _ in islice(fit(run), after):
        pass
    checkpoint.save(run, tmp_path)
    again = run_of(arrays, **changes)
    assert checkpoint.resume(again, tmp_path) is not None
    assert again.state.step == after
    trained(again)
    assert timeless(again.state.history) == timeless(unbroken.state.history)
    assert same(again.model.state_dict(), unbroken.model.state_dict())


def test_a_part_is_judged_alike_in_windows_of_any_length_and_in_any_batches() -> None:
    """Three streams of 1,066 or 1,067 steps."""
    arrays = written(prose(40_000)[:2900])
    found = []
    run = run_of(arrays, data={"split": {"validation": 0.4, "test": 0.0}})
    for steps, batch in ((256, 256), (7, 256), (64, 2), (4096, 1)):
        part = replace(part_of(run, "validation"), length=steps)
        run.state.batches.evaluation = batch
        assert len(part.sizes) == int(part.sizes.sum()) // 1024 > 1
        found.append(evaluate(run, part))
        assert unanswered(run, part, batch) == 0
    for each in found[1:]:
        assert each == pytest.approx(found[0], rel=1e-6)


def test_a_network_learns_what_a_bigram_model_cannot() -> None:
    lines = prose(20_000)
    run = run_of(
        written(lines),
        architecture={"cell": "gru", "hidden_size": 32},
        training={"batch_size": 16, "bptt_steps": 32, "epochs": 6, "optimizer": {"name": "adam", "lr": 0.01}},
    )
    trained(run)
    found = {f"test_{name}": value for name, value in evaluate(run, part_of(run, "test")).items()}
    plain = baseline.of(run, found)
    assert (plain["metric"], plain["is_beaten"], plain["message"]) == ("test_perplexity", True, None)
    assert plain["answer"] == "a bigram model, which knows the character before"
    (other,) = plain["others"]
    assert other.startswith("the most frequent character (")
    assert found["test_perplexity"] < 0.8 * plain["metrics"]["test_perplexity"]
    assert plain["metrics"]["test_perplexity"] < plain["others"][other]["test_perplexity"]


# ---- baselines


def test_a_bigram_model_is_that_of_witten_and_bell() -> None:
    rng = np.random.default_rng(1)
    before, targets = rng.integers(0, 5, 60), rng.integers(0, 4, 60)
    model = Ngrams.of(before, targets, 6)
    everything = np.arange(6)
    for first in range(6):
        chances = model.probabilities(np.full(6, first), everything)
        assert chances.sum() == pytest.approx(1.0)
        followers = targets[before == first]
        kinds = len(set(followers.tolist()))
        for second in everything:
            single = ((targets == second).sum() + 1) / (60 + 6)
            wanted = single
            if len(followers):
                wanted = ((followers == second).sum() + kinds * single) / (len(followers) + kinds)
            assert chances[second] == pytest.approx(wanted)
        if len(followers):
            assert (followers == model.likeliest[first]).sum() == np.bincount(followers).max()
    assert model.likeliest[5] == np.bincount(targets).argmax()


def test_a_model_that_is_no_better_than_counting_is_told_so() -> None:
    run = run_of(written(prose(2000)), training={"epochs": 1, "optimizer": {"name": "adam", "lr": 1e-6}})
    trained(run)
    plain = baseline.of(run, {"test_loss": 9.0, "test_perplexity": 99.0})
    assert plain["message"].startswith(
        "The model does not beat its baseline: test_perplexity is 99, and a bigram model, which knows the character"
    )


# ---- samples


def counting(entries: str = "\nabc") -> tuple[SequenceModel, Vocabulary]:
    """A network that answers to each entry with the one after it, nearly always."""
    vocabulary = Vocabulary("characters", False, 100, 1, len(entries) + 2, tuple(entries))
    architecture = Architecture(cell="rnn", hidden_size=len(entries) + 2, pooling="none")
    model = SequenceModel(architecture, 1, len(entries) + 1, embeddings=[(len(entries) + 2, len(entries) + 2)])
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embeddings[0].weight.copy_(torch.eye(len(entries) + 2))  # type: ignore[operator, union-attr]
        model.rnn.weight_ih_l0.copy_(10.0 * torch.eye(len(entries) + 2))
        for number in range(len(entries)):
            model.head.weight[1 + (number + 1) % len(entries), number + 2] = 10.0
    return model, vocabulary


def test_a_sample_goes_on_where_its_start_ends() -> None:
    model, vocabulary = counting()
    assert sampling.sample(model, vocabulary, "", 6, 0.1) == "abc\nab"
    assert sampling.sample(model, vocabulary, "ab", 3, 0.1) == "c\na"
    assert sampling.sample(model, vocabulary, "zz", 0) == ""


def test_a_sample_is_drawn_by_its_seed_alone() -> None:
    model, vocabulary = counting()
    before = torch.get_rng_state()
    warm = [sampling.sample(model, vocabulary, "", 200, 5.0, seed) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert torch.equal(torch.get_rng_state(), before)
    assert set("".join(warm)) == set("\nabc")  # and never what is unknown


def test_a_sample_has_the_probabilities_of_the_model() -> None:
    model, vocabulary = counting()
    drawn = sampling.sample(model, vocabulary, "", 4000, 10.0, 7)
    after_a = [second for first, second in pairwise(drawn) if first == "a"]
    share = after_a.count("b") / len(after_a)
    assert share == pytest.approx(math.e / (math.e + 3), abs=0.05)  # a logit of 1 beside three of 0


@pytest.mark.parametrize(("steps", "temperature"), [(5, 0.0), (5, -1.0), (5, math.nan), (-1, 1.0)])
def test_a_sample_that_cannot_be_drawn_is_refused(steps: int, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        sampling.sample(*counting(), "", steps, temperature)


def test_words_of_a_sample_have_a_space_between_them() -> None:
    vocabulary = Vocabulary("words", False, 9, 1, 2, ("\n", "a"))
    assert sampling.joined(["to", "be", ",", "\n", "or", "\n", "\n", "not"], vocabulary) == "to be ,\nor\n\nnot"


# ---- a whole job


def test_a_text_file_becomes_a_model_with_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("\n\n".join(prose(3000)) + "\x1b[31m" * 40)
    asked = document(task="next_step", training={"epochs": 2, "batch_size": 8})
    del asked["data"]["split"]
    order = {"spec": parse(asked).document(), "data": str(path), "directory": str(tmp_path / "model"), "device": "cpu"}
    told = [*events(order)]
    result = told[-1]["result"]
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (card["format"], card["task"], card["classes"]) == ("loopline-model/6", "text", None)
    assert card["sample"] == result["sample"]
    assert "\n\n" in path.read_text()
    assert "\n" in card["preprocessing"]["text"]["entries"]
    written_text = result["sample"].pop("text")
    assert result["sample"] == {"start": "", "steps": 300, "temperature": 0.8, "seed": 0}
    assert 200 < len(written_text) <= 300
    assert "\x1b" not in written_text
    assert {"test_perplexity", "test_bits_per_step", "test_accuracy", "test_loss"} <= result["metrics"].keys()
    assert card["spec"]["training"]["bptt_steps"] == 64
    again = parse(card["spec"])
    assert check_data(again, npz.summarise(written(["ab", "ba"]))) == again


def test_the_page_shows_how_to_use_a_model_without_loopline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("\n".join(prose(3000)))
    asked = document(task="next_step", architecture={"hidden_size": 16}, training={"epochs": 3})
    order = {"spec": parse(asked).document(), "data": str(path), "directory": str(tmp_path / "model"), "device": "cpu"}
    result = [*events(order)][-1]["result"]
    page = Path(__file__).parents[2] / "docs" / "next-step.md"
    snippet = page.read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})  # noqa: S102 - our own text
    assert capsys.readouterr().out == result["sample"]["text"] + "\n"


def test_a_job_that_is_cancelled_offers_its_best_weights(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("\n".join(prose(2000)))
    spec = parse(document(task="next_step", training={"epochs": 50})).document()
    order = {"spec": spec, "data": str(path), "directory": str(tmp_path / "model"), "device": "cpu"}
    asked = iter(range(1000))
    told = [*events(order, lambda: "cancel" if next(asked) > 20 else None)]
    assert told[-1]["event"] == "stopped"
    assert told[-1]["result"]["baseline"]["metric"] == "validation_perplexity"


# ---- specs


@pytest.mark.parametrize(
    ("changes", "pointer", "sentence"),
    [
        ({"architecture": {"bidirectional": True}}, "/architecture/bidirectional", "it has read what next_step is to"),
        ({"architecture": {"batch_norm": True}}, "/architecture/batch_norm", "leave it out"),
        ({"architecture": {"pooling": "mean"}}, "/architecture/pooling", "a character or word to predict at each step"),
        ({"data": {"max_length": 9}}, "/data/max_length", "leaves no answer for each step"),
        ({"data": {"split": {"method": "content"}}}, "/data/split/method", "set task.joined to false"),
        ({"data": {"split": {"test": "given"}}}, "/data/split/test", "give a fraction such as 0.1"),
        ({"training": {"loss": "mse"}}, "/training/loss", "use cross_entropy"),
        ({"training": {"best_by": "macro_f1"}}, "/training/best_by", "perplexity, bits_per_step, accuracy"),
        (
            {"training": {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}}},
            "/training/loss/label_smoothing",
            "another number than that of the perplexity",
        ),
        ({"retrain": {"model": "poet"}, "data": {"split": {"test": 0.2}}}, "/retrain", "loopline models register"),
    ],
)
def test_what_makes_no_sense_for_a_text_is_refused(changes: dict[str, Any], pointer: str, sentence: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        spec_of(written(prose(300)), **changes)
    assert [problem.pointer for problem in caught.value.problems] == [pointer]
    assert sentence in caught.value.problems[0].detail


def test_numbers_are_sent_to_the_tasks_that_fit_them() -> None:
    with pytest.raises(SpecInvalid, match=r"next_step is for texts, .*: set task to classification"):
        spec_of(classes())
    with pytest.raises(SpecInvalid, match=r"next_step is for texts, .*: set task to \{name: forecast, horizon: 1\}"):
        spec_of(hourly([60, 60]))


def test_texts_without_labels_are_for_this_task_alone() -> None:
    summary = npz.summarise(written(prose(300)))
    assert (summary.target, summary.classes, summary.target_dim) == ("text", None, 0)
    for task in (None, "classification", "regression", "tagging"):
        with pytest.raises(SpecInvalid, match="set task to next_step"):
            check_data(parse(document(task=task)), summary)


def test_perplexity_is_no_metric_of_classes() -> None:
    for loss in ({}, {"loss": "cross_entropy"}):
        with pytest.raises(SpecInvalid, match="must be one of loss, accuracy, macro_f1"):
            check_data(parse(document(training={"best_by": "perplexity", **loss})), npz.summarise(classes()))


def test_a_long_text_needs_the_memory_of_its_windows() -> None:
    arrays = written(prose(30_000))
    spec, longer = (spec_of(arrays, training={"bptt_steps": steps}) for steps in (32, 64))
    summary = npz.summarise(arrays)
    assert 2 * footprint(spec, summary).batch == footprint(longer, summary).batch
    labelled = texts()
    assert footprint(spec_of(labelled), npz.summarise(labelled)).data > 0
    assert isinstance(run_of(labelled).data, Continuation)
