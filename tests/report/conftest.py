"""A real browser for pages that are looked at."""

import os

import pytest
from playwright.sync_api import sync_playwright

from hwcompile.hw_targets.browser import prepare


@pytest.fixture(scope="session")
def chromium():
    found = prepare()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=found.program, args=list(found.arguments), env={**os.environ, **found.environment}
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, tmp_path):
    """Opens a page's text; at the end of the test there must have been no error, no message and no request."""
    contexts, heard = [], []

    def opened(text, width=1280, height=1000, **options):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
        tab.goto(path.as_uri())
        tab.wait_for_selector("#points", state="attached")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert heard == []
