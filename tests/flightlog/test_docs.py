from __future__ import annotations

import re
from pathlib import Path

import pytest

from drone_agent.flightlog.schema import RECORDS

DOCS = Path(__file__).parents[2] / "docs" / "flightlog.md"


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_the_page_on_the_log_names_every_kind_with_every_key(kind: str) -> None:
    sections = re.findall(r"^(\*\*.*?)(?=^\*\*|^## )", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    (section,) = [text for text in sections if f"**{kind}**" in text]
    for key in RECORDS[kind].model_fields:
        assert key == "t_mono_ns" or f"`{key}`" in section, f"{kind}: {key}"
