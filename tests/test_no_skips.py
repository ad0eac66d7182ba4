"""CI does not pass over tests that could not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="by a mark")
def test_marked():
    pass

def test_skips_itself():
    pytest.importorskip("a_package_that_nobody_has")

@pytest.mark.gpu
def test_needs_a_device():
    pytest.skip("no GPU")

@pytest.mark.xfail(reason="known")
def test_known_to_fail():
    assert False

def test_passes():
    pass
"""
SKIPPED_FILE = "import pytest\npytest.importorskip('a_package_that_nobody_has')\n"


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", "1 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors"), ("", "1 passed, 4 skipped, 1 xfailed")],
)
def test_what_ci_skips_has_failed(tmp_path, ci, outcome):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole_file.py").write_text(SKIPPED_FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs a GPU\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no_skips", "--continue-on-collection-errors"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outcome in result.stdout, result.stdout
    assert ("CI must not skip this: by a mark" in result.stdout) is (ci == "true")
    assert (result.returncode != 0) is (ci == "true")
