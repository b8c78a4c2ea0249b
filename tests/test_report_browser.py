"""The pages in a real browser: headless Chromium, at the width of a phone and of a desk.

scripts/chromium.sh installs it on CI; elsewhere these tests are skipped where there is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NAMES, Browser, Visit, chromium, running
from small_runs import ODD_CLASSES, small_run

from harvib.compare import COMPARED
from harvib.frontier import figures_of, settings_of
from harvib.report.compare_page import compare_page
from harvib.report.page import write_page
from harvib.report.sweep_page import sweep_page
from harvib.rivals import METHODS
from harvib.rundir import RunFolder, read_json, write_json

PHONE, DESK = 390, 1440
SMALLEST = 9.0
"""CSS pixels: below this nobody reads a label on a phone."""
LONG = "a-run-with-a-name-that-has-no-place-to-break-it-" * 4


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: see scripts/chromium.sh")
    profile = tmp_path_factory.mktemp("browser") / "profile"
    with running(program, profile) as started:
        yield started
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(profile).encode() in _read(path)]
    assert not left, "processes of the browser are left"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of one run, of several (one unfinished) beside a published table, of a sweep and of a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    run = small_run(folder)
    deep = small_run(
        folder, name=LONG, model="gru", layers=2, bidirectional=True, beta=1e-4, vib_epochs=3, plain_epochs=2
    )
    mean = small_run(folder, name="mean", model="mean", vib_epochs=3, plain_epochs=2)
    unfinished = shutil.copytree(run, folder / "unfinished")
    (unfinished / "report.json").unlink()
    write_page([run], folder / "one.html")
    # The twelve features of the small cache, taken for frames of 2 x 2 pixels.
    pixels = shutil.copytree(run, folder / "pixels")
    config = read_json(pixels / "config.json") | {"recipe": {"model": "pixels", "size": [2, 2]}}
    write_json(pixels / "config.json", config)
    write_page([pixels], folder / "pixels.html")
    write_page([run, deep, mean, unfinished], folder / "several.html", "ucf101")
    report = RunFolder(run).report()
    rows = [
        {"kind": "run", "run": LONG, "swept": {"beta": beta}, "seed": seed, "error": None}
        | figures_of(report["compact"], 0.1 * (1 + seed))
        for beta in (0.1, 0.2)
        for seed in range(2)
    ]
    failed = rows[0] | {"seed": 9, "error": "training diverged: " + LONG}
    sweep = {"features": "c.h5", "split": "x", "confidence": 0.95, "selection": "The front.", "failed": 1}
    text = sweep_page(LONG, {**sweep, "runs": [*rows, failed], "settings": settings_of([*rows, failed])})
    (folder / "sweep.html").write_text(text, encoding="utf-8")
    (folder / "compare.html").write_text(compare_page(LONG, contest()), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in ("one", "several", "sweep", "pixels", "compare")}


def contest() -> dict[str, Any]:
    """Figures of a comparison of as many methods as there are, made up; one has no model, one seed failed."""
    rows = []
    for number, method in enumerate(METHODS):
        for budget in (1000, 10_000, 100_000):
            for seed in range(3 if number else 0):
                figures: dict[str, Any] = dict.fromkeys(COMPARED, float(budget) * (1 - number / 100))
                accuracy = 0.99 - 0.2 * (number + 2) / len(METHODS) / np.log10(budget / 100) - 0.004 * seed
                figures |= {"validation": accuracy, "test": accuracy - 0.01, "ms": 0.1 * number}
                swept = {"method": method, "budget": budget, "trial": 0}
                rows.append({"kind": "run", "run": LONG, "swept": swept, "seed": seed, "error": None, **figures})
    rows[-1] |= {**dict.fromkeys(COMPARED), "error": "training diverged: " + LONG}
    first = next(iter(METHODS))
    return {
        "features": LONG,
        "split": "x",
        "steps": 25,
        "budgets": [1000, 10_000, 100_000],
        "methods": {name: {"title": rival.title, "ours": rival.ours} for name, rival in METHODS.items()},
        "trials": 2,
        "not_passed_on": {first: ["standardize"]},
        "confidence": 0.95,
        "selection": "The best.",
        "macs": "MACs.",
        "runs": rows,
        "lines": [{**line, "best": False} for line in settings_of(rows, COMPARED)],
        "plain": [],
        "absent": [
            {"method": first, "budget": budget, "trial": None, "reason": LONG}
            for budget in (1000, 10_000, 100_000)
        ],
        "latency": {
            "reference": "LSTM-256",
            "models": {"LSTM-256": {"median_ms": 2.0}},
            "settings": {"repeats": 50, "batch": 1, "steps": 25, "threads": 1},
            "features": 4096,
            "torch": "2",
            "machine": "a machine",
        },
    }


def opened(browser: Browser, page: Path, width: int) -> Visit:
    """A page with all that folds unfolded."""
    visit = browser.visit(page, width)
    visit.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    return visit


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["one", "several", "sweep", "compare"])
def test_a_page_logs_nothing_asks_for_nothing_and_fits_its_window(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    visit = opened(browser, pages[name], width)
    assert visit.evaluate("innerWidth") == width
    assert visit.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing is cut off either: what is wider than the window lies in a box of its own that scrolls.
    beyond = """[...document.body.querySelectorAll('*')].filter(part => !part.closest('.wide, svg'))
        .filter(part => part.getBoundingClientRect().right > innerWidth + 1)
        .map(part => part.outerHTML.slice(0, 80))"""
    assert visit.evaluate(beyond) == []
    scrolls = "[...document.querySelectorAll('.wide')].map(box => getComputedStyle(box).overflowX)"
    assert set(visit.evaluate(scrolls)) == {"auto"}
    assert visit.console == []
    assert visit.requests == [pages[name].as_uri()]


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["one", "several", "sweep", "compare"])
def test_plots_are_drawn_with_labels_that_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    visit = opened(browser, pages[name], width)
    boxes = visit.evaluate("""[...document.querySelectorAll('svg')].map(plot => {
        const box = plot.getBoundingClientRect()
        return [box.width, box.height, plot.getAttribute('role'), plot.getAttribute('aria-label')]
    })""")
    assert len(boxes) > 2
    for plot_width, plot_height, role, label in boxes:
        assert 200 < plot_width <= width
        assert plot_height > 100
        assert role == "img"
        assert label
    sizes = visit.evaluate("""[...document.querySelectorAll('svg text')].map(text =>
        parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a)""")
    assert len(sizes) > 10
    assert min(sizes) >= SMALLEST


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_plot_of_all_methods_names_each_and_no_label_is_cut_off_or_on_another(
    browser: Browser, pages: dict[str, Path], width: int
) -> None:
    visit = opened(browser, pages["compare"], width)
    plots = visit.evaluate("""[...document.querySelectorAll('svg')].map(plot => {
        const frame = plot.getBoundingClientRect()
        return [...plot.querySelectorAll('text')].map(text => {
            const box = text.getBoundingClientRect()
            return [text.textContent, box.left - frame.left, frame.right - box.right,
                    box.top - frame.top, frame.bottom - box.bottom]
        })
    })""")
    assert len(plots) == 4
    for labels in plots:
        # The first has no run.
        assert {name for name, *_ in labels} >= set(list(METHODS)[1:])
        for name, *free in labels:
            assert min(free) >= -1, name
    overlapping = visit.evaluate("""[...document.querySelectorAll('svg')].flatMap(plot => {
        const boxes = [...plot.querySelectorAll('text')]
            .map(text => [text.textContent, text.getBoundingClientRect()])
        return boxes.flatMap(([name, a], number) => boxes.slice(number + 1)
            .filter(([_, b]) => a.left < b.right && b.left < a.right)
            .filter(([_, b]) => a.top + 3 < b.bottom && b.top + 3 < a.bottom)
            .map(([other, _]) => [name, other]))
    })""")
    assert overlapping == []


def test_the_table_of_a_comparison_is_seen_whole_on_a_desk_and_scrolls_on_a_phone(
    browser: Browser, pages: dict[str, Path]
) -> None:
    last = """[...document.querySelectorAll('.frontier')[0].querySelectorAll('thead th')]
        .map(cell => [cell.textContent, cell.getBoundingClientRect().right])"""
    desk = opened(browser, pages["compare"], DESK).evaluate(last)
    assert {"MACs/clip", "ms/clip", "training s", "best"} <= {name for name, _ in desk}
    assert max(right for _, right in desk) <= DESK
    box = "[...document.querySelectorAll('.wide')].map(box => [box.scrollWidth, box.clientWidth])[0]"
    scroll, client = opened(browser, pages["compare"], PHONE).evaluate(box)
    assert scroll > client > 300


def test_pictures_of_kept_pixels_are_decoded(browser: Browser, pages: dict[str, Path]) -> None:
    visit = opened(browser, pages["pixels"], PHONE)
    widths = visit.evaluate("""Promise.all([...document.querySelectorAll('svg image')].map(async part => {
        const image = new Image()
        image.src = part.getAttribute('href')
        await image.decode()
        return [image.naturalWidth, part.getBoundingClientRect().width]
    }))""")
    # What is kept, how strongly, and the mean frame.
    assert len(widths) == 3
    assert all(stored == 2 and shown > 50 for stored, shown in widths)
    assert visit.console == []
    assert visit.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_sections_fold_and_links_lead_to_them(browser: Browser, pages: dict[str, Path]) -> None:
    visit = browser.visit(pages["several"], PHONE)
    folded = visit.evaluate("document.documentElement.scrollHeight")
    assert visit.evaluate("[...document.querySelectorAll('details')].map(part => part.open)") == [False] * 4
    visit.evaluate("document.querySelector('a[href=\"#run-2\"]').click()")
    assert visit.evaluate("location.hash") == "#run-2"
    visit.evaluate("document.querySelector('#run-2 summary').click()")
    assert visit.evaluate("document.querySelector('#run-2').open")
    assert visit.evaluate("document.documentElement.scrollHeight") > folded + 2000


def test_class_names_are_text_in_the_browser_too(browser: Browser, pages: dict[str, Path]) -> None:
    visit = browser.visit(pages["one"], DESK)
    names = visit.evaluate(
        "[...document.querySelectorAll('.classes tbody th')].map(cell => cell.textContent.trim())"
    )
    assert names == list(ODD_CLASSES)


def test_the_checks_find_what_is_wrong_with_a_page(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<p>x<div style='width: 900px'>wide</div><img src='http://127.0.0.1:1/no.png'><script>oh.no()</script>"
    )
    visit = browser.visit(bad, PHONE)
    assert visit.evaluate("document.documentElement.scrollWidth") > PHONE
    assert any("oh is not defined" in line for line in visit.console)
    assert "http://127.0.0.1:1/no.png" in visit.requests
    assert visit.evaluate("document.images[0].naturalWidth") == 0
