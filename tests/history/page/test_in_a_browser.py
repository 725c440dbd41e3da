# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser, without a network: what it shows, what its script does, what it lacks without one."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from history.advise import machine
from history.advise import page as advise_page
from history.report.page import layout as report_page
from tests.support.history.showcase import week

# Debian's, that scripts/setup installs: Playwright's own is not fetched.
CHROMIUM = "/usr/bin/chromium"
PAGES = ("report", "advise")
API, POSTGRES = "shop/Deployment/api", "shop/StatefulSet/postgres"

# What is like what comes before it; looking at colours takes long.
REPEATED = [["article:nth-of-type(n+3)"], ["tbody tr:nth-child(n+4)"], ["g.slot:nth-of-type(n+3)"]]


class Written(NamedTuple):
    """The pages of a week, and the JSON of the same."""

    folder: Path
    document: dict[str, Any]

    def url(self, name: str) -> str:
        return f"file://{self.folder}/{name}.html"


class Seen:
    """What a page asked for and complained of while it was open."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    report, advice = week()
    folder = tmp_path_factory.mktemp("pages")
    (folder / "report.html").write_text(report_page.document(report))
    (folder / "advise.html").write_text(advise_page.document(report, advice))
    return Written(folder, machine.as_dict(report, advice))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM)
        yield made
        made.close()


def opened(browser: Browser, url: str, **options: Any) -> tuple[Page, Seen]:
    page = browser.new_context(offline=True, **options).new_page()
    seen = Seen(page)
    page.goto(url)
    return page, seen


def values(page: Page, selector: str) -> list[list[str]]:
    """Return the exact values of each row that is shown."""
    script = "rows => rows.filter(r => r.checkVisibility()).map(r => [...r.querySelectorAll('data')].map(d => d.value))"
    found: list[list[str]] = page.eval_on_selector_all(selector, script)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_it_asks_for_nothing_and_shows_the_numbers_of_the_json(browser: Browser, written: Written, name: str) -> None:
    page, seen = opened(browser, written.url(name))
    wanted = [[str(each["bytes"]), each["cost"], each["cost_per_month"]] for each in written.document["top_pairs"]]
    assert values(page, "#pairs tbody tr") == wanted
    assert page.locator("dl.answer dd").first.is_visible()
    assert (seen.said, seen.asked) == ([], [written.url(name)])


def test_pairs_sort_by_a_click_or_a_key(browser: Browser, written: Written) -> None:
    page, _ = opened(browser, written.url("report"))
    bytes_ = page.locator("#pairs thead th", has_text="bytes")
    for order, falls in (("descending", True), ("ascending", False)):
        bytes_.get_by_role("button").press("Enter")
        assert bytes_.get_attribute("aria-sort") == order
        sizes = [int(row[0]) for row in values(page, "#pairs tbody tr")]
        assert sizes == sorted(sizes, reverse=falls)
    month = page.locator("#pairs thead th", has_text="a month")
    month.get_by_role("button").click()
    assert bytes_.get_attribute("aria-sort") is None
    costs = [Decimal(row[2]) for row in values(page, "#pairs tbody tr")]
    assert costs == sorted(costs, reverse=True)
    page.locator("#pairs thead th", has_text="from").get_by_role("button").click()
    names = page.locator("#pairs tbody th").all_inner_texts()
    assert [name.lower() for name in names] == sorted(name.lower() for name in names)


def test_pairs_are_filtered_by_words(browser: Browser, written: Written) -> None:
    page, _ = opened(browser, written.url("report"))
    pairs = written.document["top_pairs"]
    page.get_by_label("Only pairs with these words").fill("POSTGRES api")
    both = [pair for pair in pairs if {pair["source"], pair["destination"]} == {API, POSTGRES}]
    wanted = [[str(pair["bytes"]), pair["cost"], pair["cost_per_month"]] for pair in both]
    assert 0 < len(wanted) < len(pairs)
    assert values(page, "#pairs tbody tr") == wanted
    assert page.locator("output").inner_text() == f"{len(wanted)} of {len(pairs)} rows"
    page.get_by_label("Only pairs with these words").fill("")
    assert len(values(page, "#pairs tbody tr")) == len(pairs)


def test_a_change_is_copied_as_it_stands(browser: Browser, written: Written) -> None:
    page, _ = opened(browser, written.url("advise"), permissions=["clipboard-read", "clipboard-write"])
    finding = next(each for each in written.document["advice"]["findings"] if each["manifests"])
    article = page.locator("article", has=page.locator(f"#finding-{finding['number']}"))
    article.get_by_role("button", name="Copy the change").click()
    article.get_by_text("Copied").wait_for()
    assert list(yaml.safe_load_all(page.evaluate("navigator.clipboard.readText()"))) == finding["manifests"]


@pytest.mark.parametrize("name", PAGES)
def test_without_a_script_everything_is_there(browser: Browser, written: Written, name: str) -> None:
    page, seen = opened(browser, written.url(name), java_script_enabled=False)
    assert page.locator("#pairs tbody tr").count() == len(written.document["top_pairs"])
    assert page.locator("#pairs tbody tr").last.is_visible()
    assert page.get_by_role("button").count() == 0, "nothing that would do nothing"
    assert not page.locator(".tools").first.is_visible()
    page.get_by_text("The same as a table").click()
    assert page.locator("#slots tbody tr").last.is_visible()
    assert seen.said == []


# Only colours differ in the dark.
@pytest.mark.parametrize(("scheme", "rules"), [("light", {}), ("dark", {"runOnly": ["color-contrast"]})])
def test_axe_finds_nothing(browser: Browser, written: Written, scheme: Any, rules: dict[str, Any]) -> None:
    """Of the page of advice, which has all that a report's has; what repeats is looked at once or twice."""
    page, _ = opened(browser, written.url("advise"), color_scheme=scheme)
    page.eval_on_selector_all("details:not(:has(#slots))", "found => found.forEach(each => each.open = true)")
    found = (
        Axe().run(page, {"exclude": REPEATED}, options={"resultTypes": ["violations"], **rules}).response["violations"]
    )
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found] == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("media", "width"), [("screen", 390), ("print", 700)])
def test_it_is_as_wide_as_a_telephone_or_a_sheet(
    browser: Browser, written: Written, name: str, media: Any, width: int
) -> None:
    page, _ = opened(browser, written.url(name), viewport={"width": width, "height": 900})
    page.emulate_media(media=media)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".tools").first.is_visible() is (media == "screen")


def test_the_policy_holds_if_all_else_fails(browser: Browser, written: Written) -> None:
    """What a name would do that was not escaped: nothing."""
    evil = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><b style='color: red'>b</b>"
    spoilt = written.folder / "spoilt.html"
    spoilt.write_text((written.folder / "report.html").read_text().replace("<main>", f"<main>{evil}", 1))
    page, seen = opened(browser, f"file://{spoilt}")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("getComputedStyle(document.querySelector('main b')).color") != "rgb(255, 0, 0)"
    assert len(seen.said) > 2
    assert [said for said in seen.said if "Content Security Policy" not in said] == []
    assert page.locator("#pairs thead button").count() > 0, "its own script runs"
