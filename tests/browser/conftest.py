"""The browser that the tests of pages share."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.looking import CHROMIUM, QUIET


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()
