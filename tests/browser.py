"""A real browser for the tests of pages, where there is one."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
)
_VOID = {"meta", "input", "img", "br", "source", "link", "image", "path", "rect", "line"}


def open_page(path: Path, profile: Path) -> tuple[str, list[str]]:
    """Return the page after its scripts have run, and what it wrote to the console; skip without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium to open the page")
    run = subprocess.run(
        [chromium, *_OPTIONS.split(), f"--user-data-dir={profile}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return run.stdout, re.findall(r"CONSOLE.*", run.stderr)


@dataclass
class Page(HTMLParser):
    """A page's elements, headings and text, and whether its tags are balanced."""

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()
        elif tag not in _VOID:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words += data.split()

    @property
    def text(self) -> str:
        """What a reader sees, with single spaces."""
        return " ".join(self.words)

    def attributes(self, *names: str) -> list[str]:
        """Return the values of these attributes, in order."""
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]


def check_accessible(page: Page) -> None:
    """Assert what every page owes its readers."""
    assert page.unbalanced == []
    assert next(attrs for tag, attrs in page.tags if tag == "html")["lang"] == "en"
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img")
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert set(page.attributes("aria-labelledby", "for")) <= set(ids)
