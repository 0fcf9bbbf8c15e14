"""How does a result become one HTML file that opens without a network, and part of a larger document later?

Beside each page lies a `.json` of the same name with its sections, from which the experiment journal is put together.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from training.errors import DataError

_TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
_CONTENTS_FROM: Final = 12
"""Headings from which on a page gets a table of contents."""
_INLINE: Final = re.compile(r"`(?P<code>[^`]+)`|\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+)\)")


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
    """One part of a page, in this order: paragraphs, tables, pictures, parts of its own.

    `origin` says what it was made from, for whoever reads the sections again; it is not shown.
    """

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    origin: str = ""


def embed(path: Path) -> str:
    """Return a picture file (PNG, JPEG, SVG) as a `data:` address."""
    return f"data:{_TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Heading:
    """A section of a page with the anchor that leads to it."""

    anchor: str
    section: Section
    parts: Sequence[Heading]


def render_page(title: str, summary: str, sections: Sequence[Section]) -> str:
    """Return a whole HTML document. All text is escaped; code in backticks and links of Markdown are shown as such.

    A page with many sections begins with a table of contents, of its sections and their parts.
    """
    environment = Environment(
        loader=PackageLoader("training", "templates"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = _inline
    headings = _headings(sections, set())
    contents = len(headings) + sum(len(heading.parts) for heading in headings) >= _CONTENTS_FROM
    template = environment.get_template("page.html.j2")
    return template.render(title=title, summary=summary, headings=headings, contents=contents)


def _headings(sections: Sequence[Section], taken: set[str]) -> list[Heading]:
    """Give every section an anchor of its own, made of its title."""
    found = []
    for section in sections:
        plain = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        numbered = (plain if count == 1 else f"{plain}-{count}" for count in itertools.count(1))
        anchor = next(name for name in numbered if name not in taken)
        taken.add(anchor)
        found.append(Heading(anchor, section, _headings(section.sections, taken)))
    return found


def _inline(text: str) -> Markup:
    """Escape a text and show what Markdown would show as code or as a link."""
    parts, end = Markup(), 0
    for match in _INLINE.finditer(text):
        parts += escape(text[end : match.start()])
        if match["code"]:
            parts += Markup("<code>{}</code>").format(match["code"])
        else:
            parts += Markup('<a href="{}">{}</a>').format(match["target"], match["text"])
        end = match.end()
    return parts + escape(text[end:])


def write_page(path: Path, title: str, summary: str, sections: Sequence[Section]) -> Path:
    """Write the page of `render_page`, and its sections beside it as JSON; return the page's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(title, summary, sections), encoding="utf-8")
    content = {"title": title, "summary": summary, "sections": [_dump(section, path.parent) for section in sections]}
    sections_beside(path).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def sections_beside(page: Path) -> Path:
    """Return where the sections of a page are kept."""
    return page.with_name(f"{page.stem}.sections.json")


def read_sections(page: Path) -> tuple[str, str, list[Section]]:
    """Read title, summary and sections of a page that `write_page` wrote.

    Raises:
        DataError: they are not there, or damaged.
    """
    path = sections_beside(page)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["title"], content["summary"], [_load(item, page.parent) for item in content["sections"]]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); run the command that writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); run the command that writes it again") from error


def _dump(section: Section, folder: Path) -> dict[str, Any]:
    return {
        "title": section.title,
        "paragraphs": list(section.paragraphs),
        "tables": [
            {"headings": list(table.headings), "rows": [list(row) for row in table.rows], "note": table.note}
            for table in section.tables
        ],
        "pictures": [
            {"path": os.path.relpath(picture.path, folder), "caption": picture.caption} for picture in section.pictures
        ],
        "sections": [_dump(part, folder) for part in section.sections],
        **({"origin": section.origin} if section.origin else {}),
    }


def _load(content: dict[str, Any], folder: Path) -> Section:
    return Section(
        content["title"],
        content["paragraphs"],
        [Table(**table) for table in content["tables"]],
        [Picture(folder / picture["path"], picture["caption"]) for picture in content["pictures"]],
        [_load(part, folder) for part in content["sections"]],
        content.get("origin", ""),
    )


def render_markdown(title: str, summary: str, sections: Sequence[Section], place: Callable[[Path], str]) -> str:
    """Return the same document as Markdown.

    Args:
        title: of the document.
        summary: one paragraph below it.
        sections: its parts.
        place: where a picture is found from the document, as it is to be written into the link.
    """
    return f"# {title}\n\n{summary}\n" + "".join(_markdown(section, 2, place) for section in sections)


def _markdown(section: Section, level: int, place: Callable[[Path], str]) -> str:
    parts = [f"\n{'#' * level} {section.title}\n"]
    parts += [f"\n{text}\n" for text in section.paragraphs]
    parts += [f"\n{markdown_table(table)}" for table in section.tables]
    parts += [f"\n![{picture.caption}]({place(picture.path)})\n\n*{picture.caption}*\n" for picture in section.pictures]
    parts += [_markdown(part, level + 1, place) for part in section.sections]
    return "".join(parts)


def markdown_table(table: Table) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(table.headings) + " |", "|" + "---|" * len(table.headings)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n" + (f"\n{table.note}\n" if table.note else "")
