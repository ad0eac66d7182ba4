"""environment.yaml says what conda can read, and gives what pyproject.toml asks for. Nothing is downloaded."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec
from rattler.exceptions import InvalidMatchSpecError

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHONS = ["3.11", "3.12", "3.13"]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((REPOSITORY / "environment.yaml").read_text())


def conda_specs(environment: dict) -> dict[str, MatchSpec]:
    """What conda itself installs, by name."""
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    specs = [MatchSpec(line, strict=True) for line in lines]
    return {spec.name.normalized: spec for spec in specs if spec.name is not None}


def pip_lines(environment: dict) -> list[str]:
    """What conda hands to pip."""
    return [line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]


def test_file_has_the_form_that_conda_reads(environment):
    assert environment.keys() <= {"name", "channels", "dependencies", "variables"}
    assert environment["channels"] == ["conda-forge"]
    assert all(isinstance(e, str) or list(e) == ["pip"] for e in environment["dependencies"])


def test_every_line_parses(environment, project):
    specs = conda_specs(environment)
    assert {"python", "pip"} <= specs.keys()  # pip must be asked for where pip lines are
    editable = [line for line in pip_lines(environment) if line.startswith("-e ")]
    others = [Requirement(line) for line in pip_lines(environment) if line not in editable]
    assert len(editable) == 1
    installed = Requirement(editable[0].replace("-e .", project["name"], 1))
    assert "dev" in installed.extras
    assert installed.extras <= project["optional-dependencies"].keys()
    # The editable install brings every dependency, so a second mention could only contradict it.
    named = {canonicalize_name(r) for r in specs} | {canonicalize_name(r.name) for r in others}
    assert not named & {canonicalize_name(Requirement(d).name) for d in project["dependencies"]}


def test_python_versions_agree(environment, project):
    spec = conda_specs(environment)["python"]
    assert spec.version is not None
    conda = SpecifierSet(str(spec.version))
    classified = [c.split(" :: ")[-1] for c in project["classifiers"] if "Python :: 3." in c]
    assert classified == PYTHONS
    for version in PYTHONS:
        assert SpecifierSet(project["requires-python"]).contains(version)
        assert conda.contains(version)
    assert not conda.contains("3.10") and not conda.contains("3.14")


def test_dependencies_parse(project):
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = [canonicalize_name(Requirement(line).name) for line in project["dependencies"]]
    assert all(Requirement(line) for lines in lists for line in lines)
    assert len(names) == len(set(names))


def test_the_check_can_fail():
    with pytest.raises(InvalidMatchSpecError):
        MatchSpec("numpy>=>2", strict=True)
