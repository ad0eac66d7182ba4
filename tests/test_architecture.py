"""The rooms of the source: which may import which, how large they are, and the words that the glossary forbids."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import splax

SOURCE = Path(splax.__file__).parent
GLOSSARY = SOURCE.parents[1] / "docs" / "conventions.md"

# Which rooms (files and folders directly below src/splax) each room may import.
ALLOWED = {
    "lenses": "",
    "devices": "",
    "ops": "lenses devices",
    "cameras": "lenses",
    "scene": "cameras",
    "trajectories": "cameras scene",
    "files": "",
    "reports": "files",
    "data": "cameras files scene",
    "capture": "data files",
    "initialization": "cameras data scene",
    "gaussians": "cameras initialization ops scene",
    "io": "files gaussians ops",
    "rasterizer": "cameras gaussians ops",
    "model": "cameras gaussians ops rasterizer",
    "strategies": "gaussians ops",
    "corrections": "cameras lenses",
    "metrics": "ops",
    "losses": "cameras metrics ops rasterizer strategies",
    "training": "cameras corrections data devices files gaussians initialization io losses metrics model ops "
    "rasterizer scene strategies",
    "cli": "capture corrections data devices files gaussians initialization io losses metrics model ops "
    "rasterizer reports scene strategies training trajectories",
}
MAX_TOP_LEVEL_FILES = 10
MAX_LINES = 400
# Kernels are read from top to bottom: their files may be longer.
KERNELS = SOURCE / "ops" / "triton"
# Words that strangers do not know, or take for something else.
ARCHAIC = re.compile(r"\b(anew|beside|told|in vain|likewise|thereof|hitherto)\b", re.IGNORECASE)


@cache
def modules() -> dict[str, Path]:
    """The files of the source, by the names of their modules."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("splax", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Modules of splax that a module imports, those within functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree(modules()[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports name the whole path, {ast.unparse(node)}"
            if node.module in modules():
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in modules() else node.module


def room(module: str) -> str:
    """The file or folder directly below src/splax that a module belongs to; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def cycle(arrows: dict[str, set[str]]) -> list[str]:
    """Names along a circle of arrows; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if found := visit(other, (*path, name)):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := visit(name, ()))), [])


@pytest.mark.parametrize("name", sorted({room(module) for module in modules()} - {""}))
def test_a_room_imports_only_what_it_may(name):
    """A new room, or a new arrow, is a line of ALLOWED: a decision, not an accident."""
    assert name in ALLOWED, f"say in ALLOWED what the new room {name} may import"
    found = {
        room(other): f"{module} imports {other}"
        for module in modules()
        if room(module) == name
        for other in imports(module)
        if room(other) != name
    }
    if name == "cli":
        found.pop("", None)  # it asks for the version
    surplus = {other: example for other, example in found.items() if other not in ALLOWED[name].split()}
    assert not surplus
    assert set(ALLOWED[name].split()) == set(found), "ALLOWED names an arrow that no longer exists"


def test_rooms_that_are_allowed_exist():
    assert set(ALLOWED) == {room(module) for module in modules()} - {""}


def test_there_is_no_cycle_of_files_and_none_of_rooms():
    files = {module: {other for other in imports(module) if other != module} for module in modules()}
    assert not cycle(files)
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, others in files.items():
        rooms[room(module)] |= {room(other) for other in others} - {room(module), ""}
    assert not cycle(rooms)


def test_a_cycle_would_be_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not cycle({"a": {"b", "c"}, "b": {"c"}})


def test_the_top_level_has_few_files():
    files = [path.name for path in SOURCE.glob("*.py")]
    assert len(files) <= MAX_TOP_LEVEL_FILES, files


def test_no_file_is_long_but_kernels():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    assert not {p: n for p, n in lengths.items() if n > MAX_LINES and KERNELS not in p.parents}


def test_no_two_public_classes_have_one_name():
    names = Counter(
        node.name
        for path in modules().values()
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in names.items() if count > 1]


def forbidden_words() -> set[str]:
    """Words of the glossary that no name may contain: those of its third column that are written as `code`."""
    section = GLOSSARY.read_text(encoding="utf-8").partition("## Words")[2]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")][2:]
    assert all(len(row) == 5 for row in rows), "a row of the glossary has three columns"
    return {word for row in rows for word in re.findall(r"`(\w+)`", row[3])}


def defined_names(path: Path) -> Iterator[str]:
    """Names of a file: its own, those of classes, functions, arguments, and of what is assigned to."""
    yield path.stem
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def contains(name: str, word: str) -> bool:
    """Whether a name has a word, in snake_case or CamelCase."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
    return f"_{word.lower()}_" in f"_{snake}_"


def test_no_name_has_a_word_that_the_glossary_forbids():
    words = forbidden_words()
    assert len(words) >= 10
    wrong = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path in modules().values()
        for name in defined_names(path)
        for word in words
        if contains(name, word)
        and not (path.name == "gaussians.py" and name == "drawable")  # says its new name
    }
    assert not wrong


def test_words_are_found_in_names():
    assert contains("PhotoFeed", "feed") and contains("_photo_feed", "feed") and contains("FEED", "feed")
    assert not contains("feedback", "feed") and not contains("Seafeed", "feed")


def test_prose_has_no_archaic_word():
    assert not [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in modules().values()
        for line in path.read_text(encoding="utf-8").splitlines()
        if ARCHAIC.search(line)
    ]
