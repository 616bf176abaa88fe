"""The report in a real browser: what a reader sees, moves and downloads, and that the page talks to nobody."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from vertfrac.cli import main
from vertfrac.cohorts.annotation_json import read_annotation
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import heights
from vertfrac.level_shape import genant_level
from vertfrac.report.page import write_report
from vertfrac.report.views import read_views
from vertfrac.tables import keypoints_of

from .conftest import Graded, bent_slice
from .test_page import HOSTILE

playwright = pytest.importorskip("playwright.sync_api", reason="not installed: playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="not installed: chromium")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"wide": (1400, 900), "narrow": (390, 844)}
WAIT_MS = 60_000

UNGRADED = "\N{EN DASH}"

GradeScans = Callable[..., Graded]


@dataclass
class Opened:
    """A page and what it did: console errors, and addresses that are no part of it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]")

    def vertebrae(self) -> list[dict[str, Any]]:
        """The vertebrae as the page has them."""
        found: list[dict[str, Any]] = self.page.evaluate("state.review.present")
        return found

    def row(self, name: str) -> Any:
        return self.page.locator("#measures tbody tr").filter(
            has=self.page.get_by_role("button", name=name, exact=True)
        )

    def G(self, name: str) -> float:  # noqa: N802  # the index has this name
        return float(self.row(name).locator("td.G").get_attribute("data-value"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS, timeout=WAIT_MS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_at(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Open pages of a size; after the test none may have logged an error or asked for anything."""
    opened: list[Opened] = []

    def new(size: str = "wide") -> Opened:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, has_touch=size == "narrow"
        )
        context.set_default_timeout(WAIT_MS)
        one = Opened(context.new_page())
        one.page.on("console", lambda message: message.type == "error" and one.errors.append(message.text))
        one.page.on("pageerror", lambda error: one.errors.append(str(error)))
        one.page.on("dialog", lambda dialog: (one.errors.append(dialog.message), dialog.dismiss()))
        one.page.on("request", lambda request: one.requests.append(request.url))
        opened.append(one)
        return one

    yield new
    for one in opened:
        one.page.context.close()
        assert one.errors == []
        assert [url for url in one.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture
def five(grade_scans: GradeScans) -> Path:
    """The page of one scan with five vertebrae, the fourth seen with too little certainty."""
    graded = grade_scans({"ct": 5}, statuses=("ok", "ok", "ok", "low_score", "ok"), tall=(20, 16.5, 21))
    return write_report(graded.out)


# --- what is seen


@pytest.mark.parametrize("size", SIZES)
def test_no_serious_violation_of_accessibility(
    open_at: Callable[..., Opened], grade_scans: GradeScans, size: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = write_report(grade_scans({"five": 5}, {"bad": "no spine found"}, warnings="thick slices").out)
    one = open_at(size)
    one.open(path)
    one.page.keyboard.press("j")
    found = [_serious(Axe().run(one.page).response)]
    if size == "narrow":
        one.page.click("#open-list")
        found.append(_serious(Axe().run(one.page).response))
        one.page.click("#close-list")
    one.page.evaluate("openScan(1)")
    found.append(_serious(Axe().run(one.page).response))
    assert not any(found), json.dumps(found, indent=1)


def _serious(response: Any) -> list[Any]:
    return [
        (violation["id"], [node["html"][:200] for node in violation["nodes"][:5]])
        for violation in response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 40])
def test_one_vertebra_or_forty(open_at: Callable[..., Opened], grade_scans: GradeScans, size: str, count: int) -> None:
    one = open_at(size)
    one.open(write_report(grade_scans({"ct": count}).out))
    assert one.page.locator("#measures tbody tr").count() == count
    for view in ("straight", "sagittal", "coronal"):
        if size == "narrow":
            one.page.click(f'[data-view="{view}"]')
        assert one.page.locator(f"#{view} .vertebra").count() == count
        labels = one.page.locator(f"#{view} .label").evaluate_all("all => all.map((one) => +one.getAttribute('y'))")
        assert (np.diff(sorted(labels)) > 9).all(), "labels do not hide each other"
    overflow = one.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "nothing is cut at the right"


def test_pictures_and_their_window(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    mean = """() => {
        const { width, height } = document.querySelector('#straight canvas');
        const context = document.querySelector('#straight canvas').getContext('2d');
        const { data } = context.getImageData(width / 2 - 20, height / 2 - 20, 40, 40);
        return data.reduce((a, b) => a + b, 0) / data.length;
    }"""
    before = one.page.evaluate(mean)
    one.page.fill("#level", "900")
    one.page.keyboard.press("Tab")
    assert one.page.evaluate(mean) < before - 10
    assert one.page.input_value("#preset") == ""


def test_a_scan_that_failed_shows_its_reason_and_hostile_names_are_text(
    open_at: Callable[..., Opened], grade_scans: GradeScans
) -> None:
    one = open_at()
    one.open(write_report(grade_scans({"a": 1}, {HOSTILE: f"reason: {HOSTILE}"}, warnings=HOSTILE).out))
    assert one.page.locator("#warnings li").inner_text() == HOSTILE
    one.page.keyboard.press("n")
    assert one.page.locator("#case").inner_text() == HOSTILE
    assert one.page.locator("#failure").inner_text() == f"reason: {HOSTILE}"
    assert not one.page.locator("#viewer").is_visible()
    assert one.page.title().startswith(HOSTILE)


def test_the_list_is_searched_filtered_and_walked_by_keys(
    open_at: Callable[..., Opened], grade_scans: GradeScans
) -> None:
    one = open_at()
    one.open(write_report(grade_scans({f"ct-{n}": 1 for n in range(4)}, {"bad": "no spine found"}).out))
    names = one.page.locator("#scans .name")
    assert names.all_inner_texts() == ["ct-0", "ct-1", "ct-2", "ct-3", "bad"]
    one.page.get_by_role("button", name="failed 1").click()
    assert names.all_inner_texts() == ["bad"]
    one.page.get_by_role("button", name="failed 1").click()
    one.page.fill("#search", "SPINE")
    assert names.all_inner_texts() == ["bad"]
    one.page.fill("#search", "nothing like it")
    assert one.page.locator("#nothing").is_visible()
    one.page.fill("#search", "")
    one.page.locator("#case").click()
    for case in ("ct-1", "ct-2", "ct-1"):
        one.page.keyboard.press("p" if one.page.locator("#case").inner_text() == "ct-2" else "n")
        assert one.page.locator("#case").inner_text() == case


def test_ruler_and_row_mark_each_other_in_all_views(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    hot = "() => [...document.querySelectorAll('.hot')].map((one) => one.dataset.id)"
    one.row("2").locator("td.G").hover()
    assert one.page.evaluate(hot) == ["v2"] * 4, "three views and the row"
    one.page.locator('#sagittal [data-id="v5"] .hit').hover()
    assert one.page.evaluate(hot) == ["v5"] * 4
    one.page.locator('#straight .vertebra[data-id="v3"]').focus()
    assert one.page.evaluate(hot) == ["v3"] * 4
    one.page.keyboard.press("Enter")
    assert one.page.locator(".chosen").count() == 4
    assert one.page.locator(".handle").count() == 6


def test_printing_shows_the_scan_alone(open_at: Callable[..., Opened], five: Path, tmp_path: Path) -> None:
    one = open_at()
    one.open(five)
    one.page.evaluate("setPrinting(true)")
    assert not one.page.locator("#list").is_visible()
    assert one.page.locator("#straight canvas").is_visible()
    assert one.page.pdf()[:4] == b"%PDF"


# --- geometry


def test_the_page_maps_points_like_the_geometry_does(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    geometry, rng = bent_slice(14.0), np.random.default_rng(3)
    points = np.column_stack([rng.uniform(-9, geometry.rows + 9, 60), rng.uniform(0, 63, 60), rng.uniform(-5, 5, 60)])
    given = {
        "curve": base64.b64encode(geometry.curve.points_world.astype("<f8").tobytes()).decode(),
        "slice": {key: getattr(geometry, key) for key in ("rows", "columns", "spacing_mm", "start_mm")},
        "points": points.tolist(),
    }
    world, back = one.page.evaluate(
        """({ curve, slice, points }) => {
            const own = { ...slice, path: readCurve(curve) }, world = points.map((point) => toWorld(own, point));
            return [world, world.map((point) => toSlice(own, point))];
        }""",
        given,
    )
    np.testing.assert_allclose(world, geometry.to_world(points), atol=1e-9)
    np.testing.assert_allclose(back, geometry.to_slice(geometry.to_world(points)), atol=1e-6)


# --- the review


def _drag(one: Opened, name: str, k: int, dx: float, dy: float) -> None:
    """Drag keypoint k of a vertebra by screen pixels."""
    one.row(name).get_by_role("button", name=name, exact=True).click()
    box = one.page.locator(".handle .dot").nth(k).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    one.page.mouse.move(x, y)
    one.page.mouse.down()
    one.page.mouse.move(x + dx / 2, y + dy / 2)
    one.page.mouse.move(x + dx, y + dy)
    one.page.mouse.up()


def test_a_dragged_keypoint_changes_g_as_vertfrac_computes_it(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    before, scale = one.vertebrae()[1], one.page.evaluate("views.straight.scale")
    _drag(one, "2", 2, 6, 15)
    after = one.vertebrae()[1]
    geometry = read_views(five.parent / "ct" / "views.json").slice.geometry()
    moved = np.array([point["slice"] for point in after["points"]])
    expected = np.array([point["slice"] for point in before["points"]])
    expected[2, :2] += np.array([15, 6]) / scale / geometry.spacing_mm
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    world = geometry.to_world(expected)
    assert one.G("2") == pytest.approx(float(genant_index(heights(world))), abs=1e-6)
    assert one.G("2") < 0.75
    assert one.row("2").locator("td.grade").inner_text() in ("moderate", "severe")
    assert re.match(r"(Moderate|Severe), smallest G 0\.[567]", one.page.locator("#verdict").inner_text(), re.IGNORECASE)
    one.page.keyboard.press("Control+z")
    assert one.vertebrae()[1] == before
    one.page.keyboard.press("Control+Shift+Z")
    assert one.vertebrae()[1] == after


def test_keypoints_move_by_keys(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    before = one.vertebrae()[0]["points"][0]["slice"]
    for key in ("j", "1", "ArrowDown", "Shift+ArrowRight"):
        one.page.keyboard.press(key)
    np.testing.assert_allclose(one.vertebrae()[0]["points"][0]["slice"], np.add(before, [0.25, 1.0, 0.0]), atol=1e-9)
    assert "Vertebra 1: G" in one.page.locator("#status").inner_text()


def test_vertebrae_are_marked_deleted_added_and_all_is_undone(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    start, verdict = one.vertebrae(), one.page.locator("#verdict").inner_text()
    assert one.row("4").locator("td.grade").inner_text() == UNGRADED

    one.row("4").get_by_role("button", name="cannot be measured").click()
    assert one.row("4").locator("td.grade").inner_text() == "mild", "the reader measures what the model left out"
    one.row("2").get_by_role("button", name="cannot be measured").click()
    assert one.row("2").locator("td.status").inner_text() == "cannot be measured"
    one.row("1").get_by_role("button", name="Delete vertebra 1").click()
    assert [vertebra["id"] for vertebra in one.vertebrae()] == ["v2", "v3", "v4", "v5"]

    one.page.keyboard.press("a")
    box = one.page.locator("#straight .screen").bounding_box()
    one.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 40)
    added = one.vertebrae()[0]
    assert added["number"] is None
    assert one.row("+1").locator("td.status").inner_text() == "added"
    one.row("+1").locator("select").select_option("T11")
    assert one.row("T11").count() == 1

    assert "corrected, not downloaded" in one.page.locator("#scans .line").text_content()
    for _ in range(5):
        one.page.get_by_role("button", name="Undo").click()
    assert one.vertebrae() == start
    assert one.page.locator("#verdict").inner_text() == verdict
    assert one.page.locator('[data-do="undo"]').is_disabled()


@pytest.fixture
def doubted(grade_scans: GradeScans) -> Path:
    """The page of a scan with wedges from T6 on, or from T5 on, the last body named S1 to try that too."""
    levels, others = ("T6", "T7", "T8", "T9", "S1"), ("T5", "T6", "T7", "T8", "L5")
    graded = grade_scans({"ct": 5}, levels=levels, runner_ups=others, tall=(16.3, 17, 21))
    return write_report(graded.out)


def test_both_opinions_on_g_and_the_doubt_of_levels_are_seen(open_at: Callable[..., Opened], doubted: Path) -> None:
    one = open_at()
    one.open(doubted)
    assert [vertebra["level"] for vertebra in one.vertebrae()] == ["T6", "T7", "T8", "T9", "S1"]
    row = one.row("T7?")
    assert row.locator("td.grade").inner_text() == "mild"
    high = heights(np.array([point["world"] for point in one.vertebrae()[1]["points"]]))
    index, verdict = row.locator("td.by-level").inner_text().split()
    assert (float(index), verdict) == (pytest.approx(float(genant_level(high, ["T7"])[0]), abs=0.005), "normal")
    title = one.page.get_by_role("button", name="T7?", exact=True).get_attribute("title")
    assert title == "T7 with probability 0.83, in doubt: may be T6"
    assert one.row("S1?").locator("td.status").inner_text() == "named S1, not graded"
    assert one.row("S1?").locator("td.grade").inner_text() == UNGRADED
    assert "T7?" in "".join(one.page.locator("#straight .label").all_text_contents())


def test_a_scan_without_levels_shows_nothing_of_them(open_at: Callable[..., Opened], five: Path) -> None:
    one = open_at()
    one.open(five)
    assert not one.page.locator("#doubt").is_visible()
    assert not one.page.locator("th.by-level").is_visible()


@pytest.mark.parametrize("other", [False, True])
def test_a_reader_settles_the_doubt_at_once_and_may_take_it_back(
    open_at: Callable[..., Opened], doubted: Path, tmp_path: Path, other: bool
) -> None:
    one = open_at()
    one.open(doubted)
    before = one.vertebrae()
    one.page.get_by_role("button", name="Rather T5\N{EN DASH}L5" if other else "T6\N{EN DASH}S1 is right").click()
    after = one.vertebrae()
    assert [vertebra["level"] for vertebra in after] == (
        ["T5", "T6", "T7", "T8", "L5"] if other else ["T6", "T7", "T8", "T9", "S1"]
    )
    assert [vertebra["measured"] for vertebra in after] == [True] * 4 + [other], "what is no S1 counts"
    assert not one.page.locator("#doubt").is_visible()
    rows = read_annotation(_download(one, tmp_path), "ct").rows
    assert rows["level"].tolist() == [vertebra["level"] for vertebra in after if vertebra["level"] != "S1"]
    one.page.keyboard.press("Control+z")
    assert one.vertebrae() == before
    assert one.page.locator("#doubt").is_visible()


def test_a_level_that_a_person_gives_has_no_doubt_and_is_read_again(
    open_at: Callable[..., Opened], doubted: Path, tmp_path: Path
) -> None:
    one = open_at()
    one.open(doubted)
    one.row("T9?").locator("select").select_option("T10")
    assert one.row("T10").count() == 1
    path = _download(one, tmp_path)
    one.page.reload()
    one.page.wait_for_selector("body[data-ready]")
    one.page.set_input_files("#file", path)
    one.page.wait_for_function("document.getElementById('status').textContent.includes('is read')")
    assert one.page.locator("#measures tbody th").all_inner_texts() == ["T6?", "T7?", "T8?", "T10", "S1?"]


def _download(one: Opened, folder: Path) -> Path:
    with one.page.expect_download() as started:
        one.page.click('[data-do="download"]')
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def _cohort(tmp_path: Path, tiny_system: dict[str, Any]) -> Path:
    """A configuration whose cohort is the scan and the folder of what was downloaded."""
    config = tmp_path / "my.yaml"
    cohort = {"kind": "nifti", "folder": str(tmp_path / "scans"), "annotations": str(tmp_path / "corrected")}
    config.write_text(
        yaml.safe_dump({"name": "ward", "cohort": cohort, "folds": {"k": 2}, "systems": {"tiny": tiny_system}})
    )
    return config


def test_the_loop_closes(
    open_at: Callable[..., Opened], grade_scans: GradeScans, tmp_path: Path, tiny_system: dict[str, Any]
) -> None:
    graded = grade_scans({"ct": 5}, statuses=("ok", "ok", "ok", "ok", "low_score"), tall=(20, 16.5, 21))
    one = open_at()
    one.open(write_report(graded.out))
    _drag(one, "2", 2, 1, 4)
    one.row("1").locator("select").select_option("T11")
    one.page.fill("#reviewer", "dr. Å")
    path = _download(one, tmp_path / "corrected")
    assert path.name == "ct.json"

    config = _cohort(tmp_path, tiny_system)
    checked = CliRunner().invoke(main, ["cohort", "check", str(config), "--out", str(tmp_path / "check")])
    assert checked.exit_code == 0, checked.output
    assert "vertebra 5 cannot be measured and is left out" in checked.output
    rows = read_annotation(path, "ct").rows
    assert rows["expert"].unique().tolist() == ["dr. Å"]
    assert rows["level"].tolist() == ["T11", "", "", ""]
    page = [[point["world"] for point in vertebra["points"]] for vertebra in one.vertebrae()[:4]]
    assert np.array_equal(keypoints_of(rows), page)

    content = json.loads(path.read_text())
    content["scan"]["shape"][2] += 1
    path.write_text(json.dumps(content))
    refused = CliRunner().invoke(main, ["cohort", "check", str(config), "--out", str(tmp_path / "check")])
    assert refused.exit_code == 1
    assert "is of a scan of 40 x 50 x 81 voxels" in refused.output


def test_a_file_is_opened_again_or_refused_in_one_line(
    open_at: Callable[..., Opened], five: Path, tmp_path: Path
) -> None:
    one = open_at()
    one.open(five)
    _drag(one, "3", 4, 0, 6)
    one.row("1").get_by_role("button", name="cannot be measured").click()
    path, corrected = _download(one, tmp_path), one.vertebrae()
    text = path.read_text()
    one.page.reload()
    one.page.wait_for_selector("body[data-ready]")
    untouched = one.vertebrae()
    for content, words in {
        text[:300]: "no valid JSON",
        text.replace('"ct"', '"other"'): 'holds the annotation of scan "other", expected that of "ct"',
        text.replace("annotation/1", "annotation/2"): "expected vertfrac-annotation/1",
        text.replace('"anterior_superior"', '"anterior"'): "vertebra 1 lacks a keypoint",
        "null": "found format null",
    }.items():
        path.write_text(content)
        one.page.set_input_files("#file", path)
        one.page.wait_for_function(
            "(words) => document.getElementById('status').textContent.includes(words)", arg=words
        )
        assert one.vertebrae() == untouched
    path.write_text(text)
    one.page.set_input_files("#file", path)
    one.page.wait_for_function("document.getElementById('status').textContent.includes('is read')")
    for opened, downloaded in zip(one.vertebrae(), corrected, strict=True):
        assert {key: opened[key] for key in ("id", "number", "measured", "moved", "score")} == {
            key: downloaded[key] for key in ("id", "number", "measured", "moved", "score")
        }
        for key, tolerance in (("world", 0), ("slice", 1e-6)):
            pair = [[point[key] for point in vertebra["points"]] for vertebra in (opened, downloaded)]
            np.testing.assert_allclose(*pair, atol=tolerance)
