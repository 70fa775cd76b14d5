"""The browser that the tests of pages share, and how wide and in which colours they look at them."""

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


@pytest.fixture(params=[(1280, "light"), (400, "dark")], ids=["wide-light", "narrow-dark"])
def view(request: pytest.FixtureRequest) -> tuple[int, str]:
    """Width and colour scheme."""
    return request.param
