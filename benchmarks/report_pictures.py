"""The pictures of docs/report.md: a report as a reader sees it, in headless Chromium.

    python benchmarks/report_pictures.py graded --out docs/images

GRADED is a folder that vertfrac predict wrote; ``vertfrac report`` has made its page. The pictures show the first scan
of the list: as a whole, with a keypoint that was dragged, on a telephone, and printed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
from PIL import Image as Picture
from playwright.sync_api import sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def shoot(page: Any, path: Path, **more: Any) -> None:
    """Write what the page shows as WebP."""
    Picture.open(io.BytesIO(page.screenshot(**more))).convert("RGB").save(path, quality=82, method=6)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def opened(browser: Any, page_path: Path, width: int, height: int) -> Any:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(page_path.as_uri())
    page.wait_for_selector("body[data-ready]")
    return page


def drag(page: Any, vertebra: int, keypoint: int, dx: float, dy: float) -> None:
    """Choose a vertebra by its place in the table, zoom to it and drag one of its keypoints by screen pixels."""
    page.locator("#measures tbody th button").nth(vertebra).click()
    page.keyboard.press("z")
    box = page.locator(".handle .dot").nth(keypoint).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + dx, box["y"] + dy, steps=5)
    page.mouse.up()


@click.command()
@click.argument("graded", type=click.Path(path_type=Path, exists=True))
@click.option("--vertebra", type=int, default=7, show_default=True, help="row of the table whose keypoint is dragged")
@click.option("--chromium", default="/usr/bin/chromium", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(graded: Path, vertebra: int, chromium: str, out: Path) -> None:
    """Write report.webp, report-review.webp, report-narrow.webp and report-print.webp."""
    path = (graded / "report.html").resolve()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, headless=True, args=ARGUMENTS, timeout=120_000)
        page = opened(browser, path, 1400, 900)
        page.locator('#sagittal [data-id="v7"] .hit').hover()
        shoot(page, out / "report.webp")
        drag(page, vertebra - 1, 2, 4, 22)
        shoot(page, out / "report-review.webp")
        shoot(opened(browser, path, 390, 844), out / "report-narrow.webp")
        page = opened(browser, path, 760, 1000)
        page.evaluate("setPrinting(true)")
        shoot(page, out / "report-print.webp", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
