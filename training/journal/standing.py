"""What does the journal that stands already say of runs and pages that are no longer on disk?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from training.page import Section, read_sections, sections_beside

KEPT: Final = "Taken over."
"""Begins each such part; `KEPT_MEANS` says once, at the journal's head, what it means."""
KEPT_MEANS: Final = (
    "Parts marked as taken over are as the journal before this one had them: what they were made from was not at hand."
)
_FORMERLY: Final = "Taken over from the journal before this one: what it was made from is not at hand."
"""So each part began in journals before."""


@dataclass(frozen=True)
class Standing:
    """The journal before this one.

    Attributes:
        sections: its parts; empty if there is none.
        figures: folder of their pictures.
    """

    sections: Sequence[Section] = ()
    figures: Path = Path()

    def part(self, title: str, origin: str) -> Section | None:
        """Return what a run or a page had become in the section `title`; None if it was not there."""
        for part in (part for section in self.sections if section.title == title for part in section.sections):
            if part.origin == origin:
                return replace(part, paragraphs=[KEPT, *(t for t in part.paragraphs if t not in (KEPT, _FORMERLY))])
        return None

    def row(self, title: str, first: str) -> list[str] | None:
        """Return the row that begins with `first` in the tables of the section `title`; None if there is none."""
        tables = [table for section in self.sections if section.title == title for table in section.tables]
        return next((list(row) for table in tables for row in table.rows if row[0] == first), None)


def is_kept(section: Section) -> bool:
    """Whether a section or a part of it is taken over."""
    return KEPT in section.paragraphs or any(is_kept(part) for part in section.sections)


def standing_journal(folder: Path) -> Standing:
    """Read the journal in a folder; a journal that is not there says nothing.

    Raises:
        DataError: it is damaged.
    """
    page = folder / "index.html"
    if not sections_beside(page).is_file():
        return Standing()
    return Standing(read_sections(page)[2], folder / "figures")
