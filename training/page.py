"""How does a result become one HTML file that opens without a network?"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; `note` is said below."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure file and what it shows; it is embedded into the page."""

    path: Path
    caption: str

    @property
    def source(self) -> str:
        """The file as a `data:` address."""
        return embed(self.path)


@dataclass(frozen=True)
class Section:
    """One part of a page, in this order: paragraphs, tables, pictures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


def embed(path: Path) -> str:
    """Return a picture file (PNG, JPEG, SVG) as a `data:` address."""
    return f"data:{_TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def render_page(title: str, summary: str, sections: Sequence[Section]) -> str:
    """Return a whole HTML document; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("training", "templates"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(title=title, summary=summary, sections=sections)


def write_page(path: Path, title: str, summary: str, sections: Sequence[Section]) -> Path:
    """Write the page of `render_page` and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(title, summary, sections), encoding="utf-8")
    return path


def markdown_table(table: Table) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(table.headings) + " |", "|" + "---|" * len(table.headings)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n" + (f"\n{table.note}\n" if table.note else "")
