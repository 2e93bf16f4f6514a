"""The page as a reader works with it, in a real browser: values under the pointer, zoom, logarithm, hiding, phone and print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_report import END, START, folder, log
from tests.browser import Browser, needs_browser

from mapsto.engine.report import write_report

pytestmark = needs_browser
LEGEND = "[...document.querySelectorAll('.u-legend')].map(l => l.innerText.replace(/\\s+|:/g, ''))"
PLOT = "(() => {const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.x, r.y, r.width, r.height]})()"


def events(scale: float = 1.0) -> list[dict[str, Any]]:
    return [
        START,
        *(log(s, train__loss=scale * 1000.0 / s, valid__loss=2.0 + s) for s in range(10, 110, 10)),
        {**END, "step": 100},
    ]


@pytest.fixture(scope="module")
def wide() -> Any:
    with Browser(1100, 1000) as browser:
        yield browser


def opened(browser: Browser, path: Path) -> Browser:
    browser.errors.clear()
    browser.open(path)
    return browser


def test_the_values_under_the_pointer_are_told_at_one_step_in_all_charts(wide: Browser, tmp_path: Path) -> None:
    path = write_report(folder(tmp_path / "run", [*events(), {**log(50, train__lr=0.25), "step": 50}]))
    page = opened(wide, path)
    assert page.errors == []
    assert "train/loss10valid/loss102" in page.evaluate(LEGEND)[0].replace(":", "")  # the last, before anything is pointed at
    x, y, width, height = page.evaluate(PLOT)
    page.mouse("mouseMoved", x + width * 4 / 9, y + height / 2)  # the steps are 10 to 100
    assert "step50" in page.evaluate(LEGEND)[0]
    assert "train/loss20valid/loss52" in page.evaluate(LEGEND)[0]


def test_a_chart_is_zoomed_smoothed_made_logarithmic_and_put_back(wide: Browser, tmp_path: Path) -> None:
    page = opened(wide, write_report(folder(tmp_path / "run", events())))
    whole = page.evaluate("document.querySelector('.uplot canvas').toDataURL()")

    def drawn() -> str:
        return str(
            page.evaluate("new Promise(r => setTimeout(() => r(document.querySelector('.uplot canvas').toDataURL()), 50))")
        )

    x, y, width, height = page.evaluate(PLOT)
    page.mouse("mouseMoved", x + 0.2 * width, y + height / 2)
    page.mouse("mousePressed", x + 0.2 * width, y + height / 2, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 0.6 * width, y + height / 2, button="left")
    page.mouse("mouseReleased", x + 0.6 * width, y + height / 2, button="left", clickCount=1)
    assert drawn() != whole
    page.evaluate("document.querySelector('.tools button').click()")
    assert drawn() == whole
    for change in ("const s = document.querySelector('[name=smooth]'); s.value = 80; s.dispatchEvent(new Event('input'))",
                   "document.querySelector('[name=log]').click()"):  # fmt: skip
        before = drawn()
        page.evaluate(f"(() => {{{change}}})()")
        assert drawn() != before
    assert page.errors == []


def test_a_run_that_is_hidden_is_hidden_in_every_chart_of_a_comparison(wide: Browser, tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, events(scale)) for name, scale in (("one", 1.0), ("two", 3.0))]
    page = opened(wide, write_report(folders))
    hidden = "[...document.querySelectorAll('.u-legend .u-series.u-off')].map(e => e.querySelector('.u-label').innerText)"
    assert page.evaluate(hidden) == []
    page.evaluate("[...document.querySelectorAll('.u-legend .u-series th')].find(e => e.innerText.startsWith('two')).click()")
    charts = page.evaluate("document.querySelectorAll('.uplot').length")
    assert charts > 1
    assert page.evaluate(hidden) == ["two"] * charts


@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_is_wider_than_the_window(tmp_path: Path, width: int) -> None:
    panels = [
        {"kind": "bars", "title": "Scores", "rows": [["a class with a long name " * 4, 0.5], ["b", 1.0]]},
        {"kind": "curves", "title": "ROC", "x": "false", "y": "true", "lines": [{"label": "a", "points": [[0, 0], [1, 1]]}]},
    ]
    path = write_report(folder(tmp_path / "run", events(), panels))
    with Browser(width, 900) as page:
        page.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("document.querySelectorAll('.uplot canvas').length") > 0
        assert page.errors == []


def test_in_print_and_without_scripts_the_drawings_stand(tmp_path: Path) -> None:
    path = write_report(folder(tmp_path / "run", events()))
    seen = "(q => getComputedStyle(document.querySelector(q)).display)"
    with Browser() as page:
        page.open(path)
        assert [page.evaluate(f"{seen}('.still')"), page.evaluate(f"{seen}('.live')")] == ["none", "block"]
        page.ask("Emulation.setEmulatedMedia", media="print")
        assert [page.evaluate(f"{seen}('.still')"), page.evaluate(f"{seen}('.live')")] == ["block", "none"]
        page.ask("Emulation.setEmulatedMedia", media="")
        page.ask("Emulation.setScriptExecutionDisabled", value=True)
        page.open(path)
        page.ask("Emulation.setScriptExecutionDisabled", value=False)
        assert [page.evaluate(f"{seen}('.still')"), page.evaluate(f"{seen}('.live')")] == ["block", "none"]


def test_a_script_that_is_not_the_page_s_own_does_not_run(wide: Browser, tmp_path: Path) -> None:
    path = write_report(folder(tmp_path / "run", events()))
    path.write_text(
        path.read_text().replace(
            "<body>", "<body><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
        )
    )
    page = opened(wide, path)
    assert page.evaluate("document.title") == "run · finished"
    assert any("Content Security Policy" in error for error in page.errors)
