"""Where CI is "true", a test that is skipped has failed: `.ci/run` installs what tests need.

Not so for tests marked as needing a device, data or software that CI does not have.
"""

import os
from collections.abc import Generator

import pytest

MAY_BE_SKIPPED = {"gpu", "realdata", "oracle", "depth"}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not MAY_BE_SKIPPED & {mark.name for mark in item.iter_markers()}:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"CI must not skip this: {reason.removeprefix('Skipped: ')}"
