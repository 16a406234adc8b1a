"""A plug-in of pytest that writes a row when a test has ended: a run that is killed has left all rows before.

Loaded by `make gpu` with ``-p tests.benchmarks.pytest_rows``; ``record_property`` of a test fills the column ``facts``.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.gpu_rows import append_here

LONGEST = 400
"""Characters of a reason; the log has it in full."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A row for the body of a test, and for a fixture that failed or skipped it."""
    if report.when != "call" and report.passed:
        return
    outcome = report.outcome if report.when == "call" or report.skipped else "error"
    facts = "; ".join(f"{name} {value}" for name, value in report.user_properties)
    row = {"run": report.nodeid, "outcome": outcome, "seconds": round(report.duration, 2), "facts": facts}
    append_here({**row, "reason": _reason(report)})


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A row for a file that cannot be read, whose tests would otherwise be missed by nobody."""
    if report.failed:
        append_here({"run": report.nodeid, "outcome": "error", "reason": _reason(report)})


def _reason(report: Any) -> str:
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, why
        return str(report.longrepr[2])[:LONGEST]
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext.strip().rpartition("\n")[2]
    return " ".join(text.split())[:LONGEST]
