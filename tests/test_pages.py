from datetime import UTC, datetime

import pytest
from jinja2 import UndefinedError

from cardiac_cine.pages import data_uri, svg_uri, write_page

COHORT = {"counts": "1 < 2 studies", "failed": [], "rows": [], "histograms": [], "agreement": None, "script_hash": ""}


def test_page_is_escaped_and_dated(tmp_path):
    path = tmp_path / "new" / "page.html"
    write_page("cohort.html.jinja", COHORT, path, datetime(2024, 3, 11, 12, 5, tzinfo=UTC))
    assert "<h1>1 &lt; 2 studies</h1>" in path.read_text()
    assert "Report created 2024-03-11 12:05+00:00" in path.read_text()


def test_a_missing_name_is_an_error_and_leaves_no_page(tmp_path):
    with pytest.raises(UndefinedError, match="'failed' is undefined"):
        write_page("cohort.html.jinja", {"script_hash": "", "counts": ""}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_uris_hold_their_content():
    assert data_uri("image/png", b"\x00\xff\x10") == "data:image/png;base64,AP8Q"
    assert svg_uri("<svg/>") == "data:image/svg+xml;base64,PHN2Zy8+"
