"""Pages for people: one HTML file each, with everything in it."""

import base64
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cardiac_cine.files import write_text


def write_page(template: str, content: Mapping[str, Any], path: Path, created: datetime | None = None) -> None:
    """Write a page, whole or not at all.

    Args:
        template: its name in the folder ``templates``. Text is escaped, and a name that ``content`` lacks is an error
            rather than an empty place.
        content: what the template needs, except ``created``.
        path: HTML file to write.
        created: what the page says of when it was made; now where left out.
    """
    environment = Environment(
        loader=PackageLoader("cardiac_cine"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    moment = (created or datetime.now().astimezone()).isoformat(" ", "minutes")
    write_text(environment.get_template(template).render(content, created=moment), path)


def data_uri(media_type: str, content: bytes) -> str:
    """Return a file's content as a URI to put into a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def svg_uri(svg: str) -> str:
    """Return a figure as a URI; in a document of its own its ids meet no others."""
    return data_uri("image/svg+xml", svg.encode())
