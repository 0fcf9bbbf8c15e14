"""What goes into the journal?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field

from training.config import Strict


class Pages(Strict):
    """Result pages of other commands (`index.html`, with their sections beside them), by part of the journal."""

    data: list[Path] = Field(default=[], description="of `audit`")
    split: list[Path] = Field(default=[], description="of `split`")
    augmentation: list[Path] = Field(default=[], description="of `augment-preview`")
    architectures: list[Path] = Field(default=[], description="of `models`")
    baseline: list[Path] = Field(
        default=[],
        description="of a `study` of the architectures with an equal budget; one that is not there is said to be so",
    )
    performance: list[Path] = Field(default=[], description="of `evaluate` and `cross`")
    studies: list[Path] = Field(default=[], description="of `study`")
    errors: list[Path] = Field(default=[], description="of `hypotheses`")
    explanation: list[Path] = Field(default=[], description="of `explain`")
    robustness: list[Path] = Field(default=[], description="of `robustness`")


COMMANDS: Final = {
    "data": "audit",
    "split": "split",
    "augmentation": "augment-preview",
    "architectures": "models",
    "baseline": "study",
    "studies": "study",
    "errors": "hypotheses",
    "explanation": "explain",
    "robustness": "robustness",
}
"""Which command writes the pages of each part; `performance` has several, told apart by the page's name."""


def command_of(part: str, page: Path) -> str:
    """Return the command that writes a page of `Pages`."""
    return COMMANDS.get(part) or ("cross" if page.stem == "cross" else "evaluate")


class JournalConfig(Strict):
    """One journal."""

    title: str = Field(min_length=1, description="of the document")
    out: Path = Field(default=Path("docs/journal"), description="folder for index.html, journal.md and figures/")
    bundles: list[Path] = Field(min_length=1, description="folders of the bundles that it is about")
    runs: dict[str, Path] = Field(default={}, description="folders of training runs, by the name they get in the text")
    splits: Path = Field(default=Path("config/training/splits"), description="folder of the committed splits")
    pages: Pages = Field(default=Pages(), description="results of other commands")
    photographs: bool = Field(
        default=False,
        description="whether pictures of photographs (PNG, JPEG) are taken over; off for a journal that is published, "
        "since photographs of data sets are no part of this repository",
    )
    remarks: dict[str, list[str]] = Field(
        default={}, description="paragraphs by hand, by title of the section that they are added to"
    )
