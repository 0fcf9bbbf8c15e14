from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.errors import DataError
from training.figures import figure
from training.page import (
    Picture,
    Section,
    Table,
    read_sections,
    render_markdown,
    render_page,
    sections_beside,
    write_page,
)

pytestmark = pytest.mark.training


@pytest.fixture
def sections(tmp_path: Path) -> list[Section]:
    with figure(tmp_path / "figures/curve.svg") as drawn:
        drawn.subplots().plot([1, 2], [3, 4])
    inner = Section("Inner", pictures=[Picture(tmp_path / "figures/curve.svg", "a curve")])
    return [Section("Outer <b>", ["1 < 2 & 3"], [Table(["a", "b"], [["x|y", "2"]], "said below")], (), [inner])]


def test_a_page_holds_its_pictures_and_escapes_its_text(sections: list[Section], tmp_path: Path) -> None:
    page = write_page(tmp_path / "index.html", "Title", "Summary", sections).read_text()
    assert "data:image/svg+xml;base64," in page
    assert "1 &lt; 2 &amp; 3" in page
    assert "Outer &lt;b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_sections_come_back_as_they_were(sections: list[Section], tmp_path: Path) -> None:
    page = write_page(tmp_path / "index.html", "Title", "Summary", sections)
    title, summary, found = read_sections(page)
    assert (title, summary) == ("Title", "Summary")
    assert found[0].tables[0].rows == [["x|y", "2"]]
    assert found[0].sections[0].pictures[0].path.resolve() == (tmp_path / "figures/curve.svg").resolve()
    write_page(tmp_path / "again.html", title, summary, found)
    assert sections_beside(tmp_path / "again.html").read_text() == sections_beside(page).read_text()


def test_markdown_keeps_tables_whole_and_links_pictures(sections: list[Section]) -> None:
    text = render_markdown("Title", "Summary", sections, lambda path: f"figures/{path.name}")
    assert "| x\\|y | 2 |" in text
    assert "### Inner" in text
    assert "![a curve](figures/curve.svg)" in text


def test_a_page_without_sections_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.sections\.json"):
        read_sections(tmp_path / "absent.html")
    sections_beside(tmp_path / "bad.html").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        read_sections(tmp_path / "bad.html")


def test_the_same_numbers_give_the_same_figure(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        with figure(tmp_path / name) as drawn:
            drawn.subplots().plot([1, 2, 3], [3, 1, 2], label="x")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def anchors(page: str) -> list[str]:
    return re.findall(r'<h[2-6] id="([^"]+)">', page)


def test_a_long_page_has_contents_that_lead_to_its_sections_and_their_parts() -> None:
    parts = [Section("Same name"), Section("Same name", sections=[Section("Deep")])]
    many = [Section(f"Part {index}", sections=parts) for index in range(4)]
    page = render_page("Title", "", many)
    contents = page.split("<nav")[1].split("</nav>")[0]
    ids = anchors(page)
    assert len(ids) == len(set(ids)) == 16
    linked = re.findall(r'href="#([^"]+)"', contents)
    assert linked == [anchor for anchor in ids if not anchor.startswith("deep")]
    assert "<nav" not in render_page("Title", "", many[:2])


def test_code_and_links_of_markdown_are_shown_as_such_and_nothing_else_is_markup() -> None:
    text = "run `a <b>` and see [the [x](../results.md), 5 ` 6, [1](2 3), <i>"
    page = render_page("Title", text, [Section("The `x` of it", [text], [Table(["`h`"], [["`c`"]], "`n`")])])
    shown = page.split("</style>")[1]
    assert "run <code>a &lt;b&gt;</code> and see [the" in shown
    assert '<a href="../results.md">' in shown
    assert "5 ` 6, [1](2 3), &lt;i&gt;" in shown
    assert "The <code>x</code> of it</h2>" in shown
    for inner in "hcn":
        assert f"<code>{inner}</code>" in shown


def test_headings_have_six_levels_at_most() -> None:
    deep = Section("6")
    for level in range(5, 0, -1):
        deep = Section(str(level), sections=[deep])
    page = render_page("Title", "", [deep])
    assert re.findall(r"<h(\d) id", page.split("<h1")[1]) == ["2", "3", "4", "5", "6", "6"]
