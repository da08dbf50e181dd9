"""What holds for every test.

Skips are honest: in CI a test that wants a server and does not find it fails instead of skipping. What the machine's
owner does not allow ("not allowed here: ...") no package brings, so that may be skipped there too. Properties draw the
same examples in each run and stop at the first way to fail, so that a seeded bug is caught in the same way every time.
In the fast suite each property draws at most FAST_EXAMPLES of them; the nightly run draws as many as the test asks for.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("tidegate", derandomize=True, database=None, deadline=None, report_multiple_bugs=False)
settings.load_profile("tidegate")
FAST_EXAMPLES = 20


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fewer examples in the fast suite, for which Hypothesis has no public way.

    A property inside of a test, such as one that must find a seeded bug, keeps as many as it asks for. Tests of whole
    worlds wait more than they compute: they come first, and the others fill the time.
    """
    items.sort(key=lambda item: "together" not in item.path.parts)
    if "not nightly" not in config.option.markexpr:
        return
    for item in items:
        wanted = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if wanted is not None and wanted.max_examples > FAST_EXAMPLES:
            item.obj._hypothesis_internal_use_settings = settings(wanted, max_examples=FAST_EXAMPLES)


def pytest_collection_finish() -> None:
    """All modules stay to the end: without them a collection is short, and comes before much garbage has gathered."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """One PostgreSQL server for all tests of this process; `with postgres_server.database() as url` is a fresh one."""
    from simulators.postgres import postgres

    with postgres() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where TIDEGATE_CI is set; an xfail stays what it is."""
    report = yield
    forbidden = "not allowed here" in str(report.longrepr)
    if os.environ.get("TIDEGATE_CI") and report.skipped and not hasattr(report, "wasxfail") and not forbidden:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped in CI, where its server must be installed: {report.longrepr}"
    # Hostile text of a test may hold lone surrogates, which a worker process cannot send to the one that prints.
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
