"""What the documentation says in Python runs, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
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


@each(PAGES)
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
