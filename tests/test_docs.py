"""What the documentation says in Python runs, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
from helpers import write_transforms

import splax

README = Path(__file__).resolve().parents[1] / "README.md"
DOCS = README.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@each([page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {}
    for match in BLOCK.finditer(text):
        # Empty lines ahead make tracebacks name the line of the page.
        lines_ahead = "\n" * text.count("\n", 0, match.start(1))
        exec(compile(lines_ahead + match[1], page.name, "exec"), namespace)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """As written, but for the size of the work."""
    monkeypatch.chdir(tmp_path)
    scene = splax.make_demo_scene(num_train=9, num_test=1, width=48, height=36)
    write_transforms(tmp_path / "data" / "fox", scene.train)
    smaller = {"downscale=4": "downscale=2", "10_000": "200", "2_000": "200", "400_000": "50_000"}
    smaller |= {"steps=2000": "steps=3", "range(50)": "range(3)", "num_train=12": "num_train=2"}
    for block in BLOCK.findall(README.read_text(encoding="utf-8")):
        for number, less in smaller.items():
            block = block.replace(number, less)
        exec(compile(block, README.name, "exec"), {})
    assert "'views': 2" in capsys.readouterr().out
    assert len(splax.load_ply("fox.ply").means) > 0


@each([*PAGES, README])
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
