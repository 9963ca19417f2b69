"""The page in a real browser."""

from __future__ import annotations

import shutil
from typing import Any

from serving_site import Site

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PHONE = {"width": 390, "height": 844}


def opened(browser: Any, site: Site, **options: Any) -> tuple[Any, list[str]]:
    """Return the page once it shows its cameras, and the list its errors and requests go to."""
    context = browser.new_context(**options)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((site.url, "data:"))
            else troubles.append(f"asked elsewhere: {request.url}")
        ),
    )
    page.goto(site.url)
    page.get_by_role("heading", name="gate").wait_for(timeout=10_000)
    until(page, "document.querySelector('img').naturalWidth > 0")
    return page, troubles


def until(page: Any, condition: str) -> None:
    """Ask again and again: the page's own policy forbids what wait_for_function would do."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {condition}")
