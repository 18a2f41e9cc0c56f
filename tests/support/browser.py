"""A headless Chromium that shows pages of ours, and what a page did that it should not: errors and requests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@dataclass
class Seen:
    """A page that is open, and what came of it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors of its scripts, and warnings and errors on the console."""
    requests: list[str] = field(default_factory=list)
    """What it asked for, besides itself."""

    @property
    def overflow(self) -> int:
        """By how many pixels it is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A Chromium; where there is none, the test is skipped, which on CI is a failure."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        # What nobody has seen run on CI is not known to run.
        (pytest.fail if "CI" in os.environ else pytest.skip)("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def showing(
    browser: Browser, path: Path, *, width: int = 1280, scheme: str = "light", has_script: bool = True
) -> Iterator[Seen]:
    """The page of a file, in a window of this width."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        java_script_enabled=has_script,
    )
    page = context.new_page()
    seen = Seen(page)
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    try:
        yield seen
    finally:
        context.close()
