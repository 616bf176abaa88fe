"""What a report of many scans weighs, and how long it takes to build and to open.

    vertfrac phantom --cases 3 --seed 11 --out phantoms
    vertfrac predict phantoms/images/*.nii.gz --out graded --model MODEL
    python benchmarks/report.py graded --scans 100 --out benchmarks/report.csv

The scans of the report are copies, under names of their own, of those in the folder of results. It is opened in
headless Chromium, a new one each time, until the first scan's pictures are drawn; the next scan is opened too.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from vertfrac import tables
from vertfrac.report.page import write_report

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def copies(graded: Path, out: Path, scans: int) -> None:
    """Fill ``out`` with so many copies of the scans that were graded in another folder."""
    found = tables.read_table(graded / "scans.parquet", tables.SCAN_RESULTS)
    found = found[found["status"] == "ok"].to_dict("records")
    rows = []
    for number in range(scans):
        row = found[number % len(found)]
        case = f"copy-{number + 1:04d}-of-{row['case']}"
        (out / case).mkdir(parents=True)
        for name in ("vertebrae.parquet", "views.json", "scan.json"):
            shutil.copy(graded / str(row["case"]) / name, out / case / name)
        rows.append({**row, "case": case})
    tables.write_table(out / "scans.parquet", tables.SCAN_RESULTS, rows)


def opened(page_path: Path, chromium: str) -> tuple[float, float]:
    """Seconds from the address to the drawn first scan, and from the key to the drawn next one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, headless=True, args=ARGUMENTS, timeout=120_000)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.perf_counter()
        page.goto(page_path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        first = time.perf_counter() - start
        start = time.perf_counter()
        page.keyboard.press("n")
        page.wait_for_selector('body[data-ready="1"]', timeout=120_000)
        second = time.perf_counter() - start
        browser.close()
    return first, second


@click.command()
@click.argument("graded", type=click.Path(path_type=Path))
@click.option("--scans", type=int, multiple=True, default=(100,), show_default=True)
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--chromium", default="/usr/bin/chromium", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(graded: Path, scans: tuple[int, ...], repeats: int, chromium: str, out: Path) -> None:
    """Measure, print and write a table."""
    rows: list[dict[str, Any]] = []
    for count in scans:
        with tempfile.TemporaryDirectory() as name:
            copies(graded, Path(name), count)
            wall, work = time.perf_counter(), time.process_time()
            page = write_report(Path(name))
            wall, work = time.perf_counter() - wall, time.process_time() - work
            times = [opened(page, chromium) for _ in range(repeats)]
            first, second = (statistics.median(column) for column in zip(*times, strict=True))
            rows.append(
                {
                    "scans": count, "megabytes": round(page.stat().st_size / 1e6, 2), "build_s": round(wall, 2),
                    "build_cpu_s": round(work, 2), "open_s": round(first, 2), "next_scan_s": round(second, 2),
                    "repeats": repeats,
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
