"""Tests of the report in a browser: sorting, filtering, one protocol alone, no messages in the console.

Needs playwright and Chromium, found as `chromium` or through HARNESS_CHROMIUM.
"""

import importlib.util
import os
import shutil
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.report import page as report

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("HARNESS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
EVIL = "<script>document.title='taken'</script>"

spec = importlib.util.spec_from_file_location("small_tables", Path(__file__).with_name("test_page.py"))
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        message = "no Chromium found; install it or set HARNESS_CHROMIUM to its path."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of a few models; the name of one is a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(small.MODELS, EVIL, (EVIL, 1_000_000))
        out = small.write_tables(
            tmp_path_factory.mktemp("page"), small.BRAIN | {EVIL: (0.5, 0.5)}, small.READING | {EVIL: 0.4}
        )
        return report.write(out)


@pytest.fixture
def page(browser, path):
    """The page at desktop size; console messages and network requests are errors."""
    yield from opened(browser, path)


def opened(browser, path, size="desktop", scheme="light"):
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
    page.goto(Path(path).absolute().as_uri())
    yield page
    assert messages == []
    context.close()


def column(table, n):
    """The texts of a column in the visible rows."""
    return [row.locator("th, td").nth(n).inner_text() for row in table.locator("tbody tr:visible").all()]


def test_a_click_on_a_heading_sorts_and_a_second_click_reverses_the_order(page):
    table = page.locator("#scores ~ .scroll table").first
    before = column(table, 0)
    table.get_by_role("button", name="Source").click()
    assert column(table, 0) == sorted(before, key=str.lower) != before
    button = table.get_by_role("button", name="r", exact=True).first
    button.click()
    values = column(table, 3)
    assert values[-1] == "–"  # values that could not be measured stay last
    numbers = [float(value.replace("−", "-")) for value in values if value != "–"]
    assert numbers == sorted(numbers)
    button.click()
    values = column(table, 3)
    assert [float(value.replace("−", "-")) for value in values if value != "–"] == numbers[::-1]
    assert values[-1] == "–"
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_headings_can_be_sorted_with_the_keyboard(page):
    table = page.locator("#ran ~ .scroll table").first
    button = table.get_by_role("button", name="Parameters")
    button.focus()
    page.keyboard.press("Enter")
    assert column(table, 5) == ["81,000", "1 M", "124 M", "124 M", "7.24 B"]


def test_words_filter_rows(page):
    table = page.locator("#scores ~ .scroll table").first
    field = page.locator("#scores ~ .filter input").first
    n = len(column(table, 0))
    field.fill("tiny untrained")
    assert column(table, 0) == ["tiny-llama:untrained", "tiny-gpt2:untrained", "tiny-t5:untrained"]
    assert page.locator("#scores ~ .filter [role=status]").first.inner_text() == f"3 of {n} rows"
    field.fill("")
    assert len(column(table, 0)) == n


def test_one_protocol_can_be_shown_alone(page):
    panels = page.locator("svg.panel")
    n = panels.count()
    page.get_by_label("STRICT only").check()
    assert page.locator("svg.panel:visible").count() == page.locator("svg[data-protocol=strict]").count() < n
    table = page.locator("#scores ~ .scroll table").first
    assert table.locator("thead tr").first.locator("th:visible").all_inner_texts() == ["STRICT"]
    assert table.locator("tbody tr").first.locator("th:visible, td:visible").count() == 2 + 6
    assert "PAPER" not in column(page.locator("#tuning ~ .scroll table").first, 1)
    page.get_by_label("all protocols").check()
    assert page.locator("svg.panel:visible").count() == n
    assert table.locator("tbody tr").first.locator("th:visible, td:visible").count() == 2 + 12


def test_figures_have_text_alternatives(page):
    for panel in page.locator("svg.panel").all():
        assert len(panel.get_attribute("aria-label")) > 30
        assert panel.get_attribute("role") == "img"
    assert page.locator("svg.panel .mark title").count() > 50  # values shown on hover


def test_names_are_shown_as_text(page):
    assert page.title() != "taken"
    assert page.get_by_role("rowheader", name=EVIL, exact=True).count() > 0
    assert page.locator("script").count() == 1


def test_embedded_files_can_be_downloaded(page, tmp_path):
    with page.expect_download() as download:
        page.get_by_role("row", name="model_scores").get_by_role("link", name="csv", exact=True).click()
    download.value.save_as(tmp_path / "scores.csv")
    assert download.value.suggested_filename == f"{small.RUN}-model_scores.csv"
    assert (tmp_path / "scores.csv").read_text().startswith("run,model,kind,revision")


def test_figures_are_saved_as_svg_png_and_script(page, tmp_path):
    figure = page.locator("section.glance figure").first
    panels = figure.locator("svg.panel:visible").count()
    saved = {}
    for form in ("SVG", "PNG"):
        with page.expect_download() as download:
            figure.get_by_role("button", name=form).click()
        assert download.value.suggested_filename == f"{small.RUN}-glance-1.{form.lower()}"
        download.value.save_as(tmp_path / form)
        saved[form] = (tmp_path / form).read_bytes()
    root = ElementTree.fromstring(saved["SVG"])  # noqa: S314 - our own file
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == panels > 0
    assert b"var(" not in saved["SVG"]  # colours that other programs know
    assert [title for title in root.iter("{http://www.w3.org/2000/svg}title") if title.text.startswith(EVIL)]
    width, height = struct.unpack(">II", saved["PNG"][16:24])
    assert saved["PNG"].startswith(b"\x89PNG")
    assert (width, height) == (3 * float(root.get("width")), int(3 * float(root.get("height"))))
    colours = page.evaluate(
        """async (bytes) => {
            const image = await createImageBitmap(new Blob([new Uint8Array(bytes)], { type: "image/png" }));
            const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
            canvas.drawImage(image, 0, 0);
            const all = canvas.getImageData(0, 0, image.width, image.height).data;
            const seen = new Set();
            for (let i = 0; i < all.length; i += 4) seen.add([all[i], all[i + 1], all[i + 2]].join());
            return [...seen];
        }""",
        list(saved["PNG"]),
    )
    assert {"0,114,178", "194,80,10", "255,255,255", "27,27,27"} <= set(colours)  # models, controls, paper and ink
    with page.expect_download() as download:
        figure.get_by_role("link", name="matplotlib script").click()
    download.value.save_as(tmp_path / "figure.py")
    compile((tmp_path / "figure.py").read_text(), "figure", "exec")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_light_and_dark(browser, path, size, scheme):
    for page in opened(browser, path, size, scheme):
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 380) == (scheme == "light")


def test_without_scripts_everything_is_visible(browser, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(Path(path).absolute().as_uri())
    assert page.locator("#protocols:visible").count() == 0
    assert page.locator("svg.panel:visible").count() == page.locator("svg.panel").count()
    context.close()


def test_collapsed_tables_are_printed(browser, path):
    for page in opened(browser, path):
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0
