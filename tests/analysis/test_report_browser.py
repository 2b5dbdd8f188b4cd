"""The report in headless Chromium: what a reader clicks does what it says, at both widths, in both languages, light and dark.

Skipped where there is no Chromium or no Playwright (the extra `browser`): machines without a browser cannot run it. To run it on
Debian: `apt-get install chromium`, `pip install 'hqc-compiler[browser]'`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hqc
from tests.analysis.reported import Net, X, compiled_net

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright (the extra `browser`) is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.xdist_group("browser"),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_net().report(tmp_path_factory.mktemp("browser") / "net.html")


class Reader:
    """A page that is open; what it complains about in its console fails the test at the end."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | context))
        self.page = self.context.new_page()
        self.page.set_default_timeout(180_000)  # a busy machine is no error
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"file://{file}")
        self.page.wait_for_function("document.documentElement.dataset.ready === 'true'")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []
            assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def box(page: Any, name: str) -> Any:
    """The picture's box of an operation."""
    return page.locator("#picture g.node").filter(has_text=name).first


def chosen(page: Any) -> str:
    return str(page.locator("#operation h2").inner_text())


def test_a_click_on_a_box_shows_everything_about_it(browser: Any, file: Path) -> None:
    with Reader(browser, file) as page:
        assert page.locator("#picture g.cluster polygon").count() == page.locator("#picture g.cluster").count() == 3
        box(page, "stage.0.conv1").click()
        assert chosen(page) == "stage.0.conv1"
        text = page.locator("#operation").inner_text()
        for word in ("BPU 0", "reported.py:", "within the limits", "q(i8", "SQNR", "clip range", "stage_0_bn1", "ms"):
            assert word in text, word
        assert page.locator("#operation svg rect").count() > 20  # the histogram
        assert "fold-batch-norm" in text and "conv2d(" in text
        assert page.locator(".tabulator-row.tabulator-selected").inner_text().startswith("stage.0.conv1")
        page.locator("#picture g.node.cpu").first.click()
        assert "Selu runs on the CPU" in page.locator("#operation").inner_text()
        page.locator("#picture g.node.boundary").first.click()
        assert "scale" in page.locator("#operation").inner_text() and "bytes" in page.locator("#operation").inner_text()


def test_search_finds_marks_and_opens_folded_modules(browser: Any, file: Path) -> None:
    with Reader(browser, file) as page:
        boxes = page.locator("#picture g.node").count()
        page.click("#fold")
        page.wait_for_selector("#picture g.node.folded")
        assert page.locator("#picture g.node").count() < boxes
        page.fill("#search", "stage.1.act")
        page.wait_for_selector("#picture g.node.cpu.chosen")
        assert page.locator("#matches").inner_text() == "1 found" and chosen(page) == "stage.1.act"
        page.fill("#search", "selu")
        assert page.locator("#matches").inner_text() == "2 found" and chosen(page) == "stage.0.act"
        page.press("#search", "Enter")
        assert chosen(page) == "stage.1.act"
        page.fill("#search", "nothing like this")
        assert page.locator("#matches").inner_text() == "0 found" and page.locator("#picture g.match").count() == 0
        page.click("#unfold")
        page.wait_for_function(f"document.querySelectorAll('#picture g.node').length === {boxes}")


def test_a_folded_module_opens_by_a_click_and_folds_from_an_operation(browser: Any, file: Path) -> None:
    with Reader(browser, file) as page:
        page.click("#fold")
        page.wait_for_selector("#picture g.node.folded")
        assert page.locator("#picture g.node.folded", has_text="stage.0").count() == 0
        assert page.locator("#picture g.node.cpu.folded").count() == 0  # one CPU operation between two subgraphs is no group
        page.locator("#picture g.node.folded").first.click()
        page.wait_for_selector("#picture g.node.folded:has-text('stage.0')")
        page.click("#unfold")
        page.wait_for_function("document.querySelectorAll('#picture g.node.folded').length === 0")
        box(page, "stage.0.conv1").click()
        page.get_by_role("button", name="fold stage", exact=True).click()
        page.wait_for_selector("#picture g.node.folded")


def test_the_picture_zooms_and_pans(browser: Any, file: Path) -> None:
    with Reader(browser, file) as page:
        place = "document.querySelector('#picture g.view').getAttribute('transform')"
        found = [page.evaluate(place)]
        page.click("#zoom-in")
        found.append(page.evaluate(place))
        corner = page.locator("#picture").bounding_box()
        page.mouse.move(corner["x"] + 20, corner["y"] + 20)
        page.mouse.down()
        page.mouse.move(corner["x"] + 80, corner["y"] + 90, steps=3)
        page.mouse.up()
        found.append(page.evaluate(place))
        page.mouse.wheel(0, -200)
        page.wait_for_function(f"{place} !== {found[-1]!r}")
        found.append(page.evaluate(place))
        assert len(set(found)) == 4
        page.click("#fit")
        assert page.evaluate(place) == found[0]


def test_the_table_sorts_filters_and_selects_in_the_picture(browser: Any, file: Path) -> None:
    with Reader(browser, file) as page:
        first = page.locator(".tabulator-row").first
        page.locator('.tabulator-col[tabulator-field="macs"] .tabulator-col-title').click()
        page.locator('.tabulator-col[tabulator-field="macs"] .tabulator-col-title').click()
        shown = page.locator('.tabulator-row [tabulator-field="macs"]').all_inner_texts()
        numbers = [int(text.replace(",", "") or 0) for text in shown]
        assert numbers == sorted(numbers, reverse=True) and numbers[0] > 0
        page.locator('.tabulator-col[tabulator-field="device"] input').press_sequentially("CPU")
        page.wait_for_function("document.querySelectorAll('.tabulator-row').length === 2")
        heights = page.locator(".tabulator-row").evaluate_all("rows => rows.map(row => row.offsetHeight)")
        assert max(heights) < 40  # one line a row
        first.click()
        assert page.locator("#picture g.node.cpu.chosen").count() == 1


def test_passes_switch_and_narrow_to_the_selected_operation(browser: Any, file: Path) -> None:
    with Reader(browser, file) as page:
        page.select_option("#pass", label=page.locator("#pass option", has_text="fold-batch-norm").first.inner_text())
        assert page.locator("#ir .removed", has_text="batch_norm(").count() == 2
        before = page.locator("#pass").input_value()
        page.click("#next")
        assert int(page.locator("#pass").input_value()) == int(before) + 1
        page.click("#previous")
        box(page, "stage.0.conv1").click()
        page.check("#only")
        assert page.locator("#ir .removed", has_text="batch_norm(").count() == 1
        page.select_option("#view", "text")
        assert 1 <= page.locator("#ir span").count() <= 3
        page.uncheck("#only")
        assert page.locator("#ir span").count() > 10
        page.locator("#operation button.link", has_text="partition").first.click()
        assert "partition" in page.locator("#pass option:checked").inner_text()


def test_language_and_theme_switch(browser: Any, file: Path) -> None:
    with Reader(browser, file, color_scheme="light") as page:
        box(page, "stage.0.conv1").click()
        assert "operations on the CPU" in page.locator("#figures").inner_text()
        page.select_option("#language", "zh")
        assert "个算子在 CPU 上" in page.locator("#figures").inner_text()
        assert "源代码行" in page.locator("#operation").inner_text() and chosen(page) == "stage.0.conv1"
        assert "在限制之内" in page.locator("#operation").inner_text(), "reasons too"
        assert page.locator('.tabulator-col[tabulator-field="op"]').first.inner_text().startswith("类型")
        back = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(back)
        page.click("#theme")
        assert page.evaluate(back) != light
        page.click("#theme")
        assert page.evaluate(back) == light
    with Reader(browser, file, color_scheme="dark", locale="zh-CN") as page:
        assert page.evaluate(back) != light and page.locator("#language").input_value() == "zh"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen(browser: Any, file: Path, width: int, scheme: str) -> None:
    with Reader(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        box(page, "stage.0.conv1").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [page.locator(each).bounding_box() for each in ("#picture", "#table", "#operation", "#ir")]
        for place in boxes:
            assert place["x"] >= 0 and place["x"] + place["width"] <= width
        table, operation = boxes[1:3]
        assert table["y"] + table["height"] <= operation["y"]
        beside = abs(boxes[0]["y"] - table["y"]) < 100
        assert beside == (width == 1280)


def test_it_prints(browser: Any, file: Path) -> None:
    with Reader(browser, file, color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("#theme").is_visible() and page.locator("#picture svg").is_visible()
        assert page.pdf()[:4] == b"%PDF"


class Long(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.SELU() if first else nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.b(torch.sigmoid(self.a(x))) + x)


def test_a_thousand_operations_open_fold_and_unfold(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    large = nn.Sequential(*(nn.Sequential(*(Long(index == 0) for index in range(10))) for _ in range(25)))
    x = torch.rand(1, 2, 4, 4)
    compiled = hqc.compile(large, x, march="bayes", calibration_data=[x])
    assert len(compiled.placement.rows) == 1000
    written = compiled.report(tmp_path / "large.html", measure=False)
    assert written.stat().st_size < 6_000_000
    with Reader(browser, written) as page:
        assert page.locator("#picture g.node").count() <= 150
        assert page.locator(".tabulator-row").count() < 200  # the table draws what is in sight
        page.fill("#search", "24.9.act")
        page.wait_for_selector("#picture g.node.chosen")
        assert chosen(page) == "24.9.act"
        page.click("#unfold")
        page.wait_for_function("document.querySelectorAll('#picture g.node').length > 1000")


@pytest.mark.parametrize("what", ["plan", "saved"])
def test_pages_of_plans_and_saved_models_open_too(browser: Any, tmp_path: Path, what: str) -> None:
    if what == "plan":
        file = hqc.explain(Net(), X, march="bayes").report(tmp_path / "net.html")
    else:
        file = hqc.load(compiled_net().save(tmp_path / "net.safetensors")).report(tmp_path / "net.html")
    with Reader(browser, file) as page:
        assert page.locator("#chips-section").is_visible() == (what == "plan")
        assert "dB" not in page.locator("#figures").inner_text() and ("ms" in page.locator("#figures").inner_text()) == (
            what == "saved"
        )
