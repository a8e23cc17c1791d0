"""Tests of the board in a browser: search, choices, sorting, sizes of screens. Needs Chromium, as test_browser.py."""

import importlib.util
from pathlib import Path

import pytest

from harness.board import site
from harness.board.rows import file_of

pytestmark = pytest.mark.browser


def _module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report = _module("report_in_a_browser", Path(__file__).parents[1] / "report" / "test_browser.py")
small, opened, column, browser = report.small, report.opened, report.column, report.browser  # a fixture too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A board of a few models; the name of one is a script."""
    made = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(small.MODELS, report.EVIL, ("x", 1_000_000))
        out = small.write_tables(made / "out", small.BRAIN | {report.EVIL: (0.5, 0.5)})
        site.write([out], str(made / "site"))
    return made / "site"


@pytest.fixture
def page(browser, folder):
    """The first page on the data set `synthetic`; messages in the console and requests are errors."""
    for page in opened(browser, folder / "index.html"):
        choice(page, "Data set").select_option("synthetic")
        yield page


def choice(page, label):
    """A field above the list."""
    return page.locator("#filters").get_by_label(label)


def test_the_list_begins_with_the_highest_score_and_sorts_by_a_click(page):
    board = page.locator("#board")
    names, values = column(board, 0), column(board, 1)
    assert names[0].startswith("tiny-llama")
    assert values[:3] == ["0.612", "0.598", "0.500"]
    assert values[-1] == "–"
    board.get_by_role("button", name="Score").click()
    assert column(board, 1) == [*values[:-1][::-1], "–"]  # not measurable: last either way
    board.get_by_role("button", name="Source").click()
    assert sorted(names) == sorted(column(board, 0)) != column(board, 0)[::-1]
    assert board.locator("th[aria-sort=ascending]").inner_text().startswith("Source")


def test_search_and_choices_narrow_the_list(page):
    board = page.locator("#board")
    choice(page, "Search").fill("gpt2 untrained")
    assert [name.split()[0] for name in column(board, 0)] == ["tiny-gpt2:untrained"]
    assert page.locator("#shown").inner_text() == "1 of 1 shown"
    choice(page, "Search").fill("")
    choice(page, "Show").select_option("control")
    assert len(column(board, 0)) == 5
    choice(page, "Protocol").select_option("PAPER")
    assert (column(board, 0)[0].split()[0], column(board, 1)[0]) == ("oasm", "0.701")
    choice(page, "Data set").select_option("")
    assert board.locator("th[data-column=dataset]").is_visible()


def test_names_are_text_and_lead_to_pages(page):
    assert page.locator("script:not([type])").count() == 1
    page.locator("#board").get_by_role("link", name=report.EVIL, exact=True).click()
    assert page.url.endswith(file_of("models", report.EVIL))
    assert page.locator("h1").inner_text() == report.EVIL
    assert page.title() != "taken"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", report.SIZES)
def test_score_interval_and_ceiling_are_on_the_screen(browser, folder, size, scheme):
    width = report.SIZES[size][0]
    for page in opened(browser, folder / "index.html", size, scheme):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cells = page.locator("#board tbody tr").first.locator("th, td")
        for k in range(4):  # source, score, interval, ceiling
            box = cells.nth(k).bounding_box()
            assert box["x"] + box["width"] <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 380) == (scheme == "light")
