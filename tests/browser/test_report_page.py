"""The report page in headless Chromium, opened from disk: it renders whole, alone and on narrow screens."""

import pytest
from report_artifacts import EVALUATED, recipe_of, report_context, write_run

from tasks import report

pytestmark = pytest.mark.browser
ATTACK = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
LONG = "x" * 300


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A run with everything that may stretch or break the page: markup, long words, failures, large pictures."""
    workspace = tmp_path_factory.mktemp("run")
    recipe = recipe_of()
    write_run(
        workspace,
        recipe,
        size=160,
        prompt="a {name} " + ATTACK + LONG,
        failed={"assets": [("y" * 100, "corrupt", LONG)]},
    )
    out_dir = tmp_path_factory.mktemp("report")
    report.finalize(report_context(workspace, recipe), None, out_dir)
    return out_dir / report.PAGE


@pytest.fixture(params=[1280, 420], ids=["desktop", "phone"])
def opened(request, browser, page_file):
    """The page in a window of that width; what it logged and asked for is collected in `seen`."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    seen = {"console": [], "errors": [], "requests": []}
    page.on("console", lambda message: seen["console"].append(message.text))
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.on("request", lambda asked: seen["requests"].append(asked.url))
    page.goto(page_file.as_uri())
    yield page, seen
    page.close()


def test_page_is_silent_and_asks_for_nothing(opened, page_file):
    page, seen = opened
    page.wait_for_load_state("networkidle")
    assert [url for url in seen["requests"] if not url.startswith("data:")] == [page_file.as_uri()]
    assert seen["console"] == seen["errors"] == []
    assert page.title() == "SynCD report: miniature"


def test_every_section_is_visible_with_something_in_it(opened):
    page, _ = opened
    for anchor, _ in report.CONTENTS:
        box = page.locator(f"section#{anchor}").bounding_box()
        assert box["height"] > 60, anchor
    assert page.locator("section#scores svg.chart").count() == 11
    assert page.locator("section#training svg.chart").count() == 3
    assert page.locator("section#evaluation table").count() == 6


def test_every_picture_decodes_and_is_drawn(opened):
    page, _ = opened
    sizes = page.evaluate(
        "() => [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth])"
    )
    assert len(sizes) == 8 * 3 * 3 + 2 * (3 + len(EVALUATED))
    assert all(complete and width > 0 and height > 0 and shown > 30 for complete, width, height, shown in sizes)


def test_nothing_sticks_out_of_the_window(opened):
    page, _ = opened
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_chart_texts_stay_inside_their_charts(opened):
    page, _ = opened
    outside = page.evaluate(
        """() => [...document.querySelectorAll('svg.chart')].flatMap(svg => {
            const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
            }).map(text => text.textContent);
        })"""
    )
    assert outside == []


def test_menu_leads_to_each_section(opened):
    page, _ = opened
    for anchor, title in report.CONTENTS:
        page.locator("nav").get_by_role("link", name=title, exact=True).click()
        assert page.evaluate("location.hash") == f"#{anchor}"
        assert page.locator(f"section#{anchor}").evaluate("e => e.getBoundingClientRect().top < innerHeight")
