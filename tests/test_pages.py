"""README.md and the pages of docs/: their size, their picture and their links."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = ROOT / "docs" / "curve.svg"
CURVE = runpy.run_path(str(ROOT / "docs" / "curve.py"))


def test_the_readme_is_short() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    assert 600 <= len(re.findall(r"[\w.'/-]*\w[\w.'/-]*", prose)) <= 700


def test_the_picture_is_what_the_script_draws() -> None:
    picture = PICTURE.read_text(encoding="utf-8")
    assert CURVE["draw"](CURVE["numbers_of"](picture)) == picture, "run docs/curve.py"
    assert len(picture) < 40_000


def test_the_readme_shows_lines_of_the_run_in_the_picture() -> None:
    drawn = CURVE["numbers_of"](PICTURE.read_text(encoding="utf-8"))
    shown = re.findall(
        r"^  epoch +(\d+)/(\d+)   loss (\S+)   accuracy (\S+)   validation loss (\S+)   validation accuracy (\S+)  ",
        README,
        re.MULTILINE,
    )
    assert len(shown) == 3
    for epoch, epochs, *numbers in shown:
        assert int(epochs) == len(drawn["train_loss"])
        names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
        assert numbers == [f"{drawn[name][int(epoch) - 1]:.4f}" for name in names]


def test_the_pictures_of_the_web_pages_are_small_and_in_the_documents_with_words_for_them() -> None:
    """`make pictures` takes them; docs/pictures.py has their names."""
    folder = ROOT / "docs" / "pictures"
    named = {f"{name}.png" for name in runpy.run_path(str(ROOT / "docs" / "pictures.py"))["PICTURES"]}
    assert {path.name for path in folder.iterdir()} == named
    shown = [found for page in sorted((ROOT / "docs").glob("*.md")) for found in pictures_in(page)]
    assert {name for _, name in shown} == named
    assert [name for words, name in shown if len(words) < 40] == []
    for name in named:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n"), name
        assert len(content) < 60_000, name


def pictures_in(page: Path) -> list[tuple[str, str]]:
    """What stands for each picture of a web page, and its name."""
    return re.findall(r"^!\[([^\]]*)\]\(pictures/([\w.-]+)\)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_index_names_each_page_by_its_title() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for title, path in re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\) \|", index, re.MULTILINE):
        assert (ROOT / "docs" / path).read_text(encoding="utf-8").startswith(f"# {title}\n"), path


def test_every_page_of_docs_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [*re.findall(r"^## (\S+):", index, re.MULTILINE)] == ["Tutorial", "How-to", "Reference", "Why"]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    listed = re.findall(r"^\| \[[^\]]+\]\(([\w.-]+)\) \| .+ \|$", index, re.MULTILINE)
    assert sorted(listed) == sorted(pages)


PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *(ROOT / folder / "README.md" for folder in ("client", "data", "examples")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def headings(page: Path) -> set[str]:
    """What a link to a part of the page may end in: its headings as GitHub writes them in addresses."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    dead = []
    for target, part in re.findall(r"\]\(([^)#:\s]*)(?:#([\w-]+))?\)", text):
        file = (page.parent / target) if target else page
        if not file.exists() or (part and part not in headings(file)):
            dead.append(f"{target}#{part}" if part else target)
    assert dead == []
