"""The report in a browser: sorting, filtering, keyboard, dark, print, and no network."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser, report):
    """Return the open report; what it complained of or asked for fails the test."""
    complaints, requests = [], []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]


def _column(page, title):
    index = page.locator("#results thead th").all_inner_texts().index(title)
    rows = page.locator("#results tbody tr:visible")
    return rows.locator(f":scope > *:nth-child({index + 1})").all_inner_texts()


def _names(page):
    return _column(page, "Hypothesis")


def _head(page, title):
    return page.locator("#results thead th", has_text=title).first


def test_numbers_sort_as_numbers_and_back(page):
    start = _names(page)
    assert len(start) == 20
    _head(page, "m1").get_by_role("button").click()
    masses = _column(page, "m1")
    assert masses == sorted(masses, key=float)
    assert masses[-1] == "1000"
    assert _head(page, "m1").get_attribute("aria-sort") == "ascending"
    _head(page, "m1").get_by_role("button").click()
    assert _column(page, "m1") == sorted(masses, key=float, reverse=True)
    assert _head(page, "m1").get_attribute("aria-sort") == "descending"
    assert page.locator("#results th[aria-sort]").count() == 1


def test_missing_numbers_come_last_both_ways(page):
    for _ in range(2):
        _head(page, "CLs obs.").get_by_role("button").click()
        values = _column(page, "CLs obs.")
        assert values[-2:] == ["\N{EN DASH}"] * 2
        assert "\N{EN DASH}" not in values[:-2]
    numbers = [float(value) for value in values[:-2]]
    assert numbers == sorted(numbers, reverse=True)


def test_keyboard_reaches_and_sorts(page):
    page.locator("#filter-excluded").focus()
    page.keyboard.press("Tab")  # the table, so that it can be scrolled
    assert page.evaluate("document.activeElement.className") == "scroll"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "m1"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert _column(page, "m1")[0] == "1000"


def test_filters(page):
    shown = page.locator("#shown")
    assert shown.inner_text() == "20 of 20"
    page.get_by_label("Status").select_option("failed")
    assert _names(page) == ["S_400_100"]
    assert shown.inner_text() == "1 of 20"
    page.get_by_label("Status").select_option("")
    page.get_by_label("Name or reason").fill("disagree")
    assert _names(page) == ["S_200_50"]
    page.get_by_label("Name or reason").fill("S_1000")
    assert len(_names(page)) == 4
    page.get_by_label("Name or reason").fill("")
    page.get_by_label("Observed").select_option("excluded")
    excluded = [float(value) for value in _column(page, "CLs obs.")]
    assert len(excluded) == 8
    assert max(excluded) < 0.05
    page.get_by_label("Name or reason").fill("nothing has this")
    assert _names(page) == []
    assert shown.inner_text() == "0 of 20"


def test_picture_is_drawn_and_described(page):
    picture = page.locator("#contour img")
    assert page.evaluate("document.querySelector('#contour img').naturalWidth") > 300
    assert "hypotheses are excluded" in picture.get_attribute("alt")


def test_text_is_legible_light_and_dark(page):
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for selector in ("body", "figcaption", "dt", ".status.failed", ".status.suspect", "a"):
            assert _contrast(page, selector) >= 4.5, (scheme, selector)


def test_print_shows_everything_and_no_controls(page):
    page.get_by_label("Status").select_option("")
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert not page.locator("nav").is_visible()
    hidden = page.evaluate(
        "(() => { const box = document.querySelector('#table .scroll');"
        " return box.scrollHeight - box.clientHeight; })()"
    )
    assert hidden <= 1


def test_narrow_screen_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_table_is_there_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#results tbody tr").count() == 20
    assert not page.locator("#filters").is_visible()
    context.close()


def _contrast(page, selector):
    """Return the WCAG 2 contrast of an element's text with the page."""
    colours = page.evaluate(
        "(selector) => [getComputedStyle(document.querySelector(selector)).color,"
        " getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour):
    channels = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
