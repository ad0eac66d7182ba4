"""Every public name has an example in its docstring, and every example shows what it says."""

import contextlib
import doctest
import io

import pytest

import splax


def examples_of(name: str) -> list[doctest.DocTest]:
    """The examples of a public name: in its own docstring and in those of its methods."""
    # Without a module the finder takes all methods: to it, those that beartype wraps come from elsewhere.
    finder = doctest.DocTestFinder(exclude_empty=True)
    # No names are given: an example imports what it uses, so that a reader can paste it.
    return [test for test in finder.find(getattr(splax, name), name, module=False, globs={}) if test.examples]


@pytest.mark.parametrize("name", sorted(splax._MODULES))
def test_every_public_name_has_an_example(name):
    assert examples_of(name), f"splax.{name} has no example (>>>) in its docstring"


@pytest.mark.parametrize("name", sorted(splax._MODULES))
def test_examples_show_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # files that an example writes do not stay in the checkout
    for test in examples_of(name):
        report = io.StringIO()
        # The runner puts its report on the standard output that it finds.
        with contextlib.redirect_stdout(report):
            result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert result.failed == 0, report.getvalue()


@pytest.mark.parametrize("name", sorted(splax._MODULES))
def test_examples_use_the_public_interface_only(name):
    sources = [example.source for test in examples_of(name) for example in test.examples]
    assert not [source for source in sources if "from splax" in source or "import splax." in source]
