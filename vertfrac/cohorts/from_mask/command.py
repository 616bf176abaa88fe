"""``vertfrac keypoints-from-mask``: a vertebra mask in; tables and a picture of its vertebrae out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.from_mask.measure import MaskVertebra, measure_mask
from vertfrac.errors import AnnotationError
from vertfrac.files import replacing_folder
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.curve import Curve, curve_through_centers
from vertfrac.geometry.keypoints import HEIGHTS, centers, heights
from vertfrac.geometry.straighten import StraightSlice, sample
from vertfrac.imaging import Image, canonical, case_name, read_image
from vertfrac.imaging.labels import LabelMap, check_same_grid, read_labels

WIDTH_MM, EXTEND_MM, SPACING_MM = 110.0, 30.0, 0.5
_GREYS = (330, 480)
"""Of neighbouring vertebrae where the mask itself is drawn, as if HU."""


def keypoints_from_mask(
    mask: Path, out: Path, *, subregions: Path | None, scan: Path | None, tell: Callable[[str], None]
) -> pd.DataFrame:
    """Measure the vertebrae of a mask; write `vertebrae.parquet`, `vertebrae.csv` and `overlay.png` to a folder.

    tell : receives one line per vertebra. Returns the table. Raises ImageError or AnnotationError naming the file, and
    writes nothing then; ConfigError if the folder exists and is no earlier result.
    """
    read = read_labels(mask)
    parts = None if subregions is None else _beside(read_labels(subregions), read)
    image = None if scan is None else _scan_beside(scan, read)
    try:
        found = measure_mask(read.labels, read.grid, None if parts is None else parts.labels)
    except AnnotationError as error:
        source = subregions if str(error).startswith("subregions") else mask
        raise AnnotationError(f"{source}: {str(error).partition(': ')[2]}") from error
    case = case_name(mask)
    table = tables.MASK_VERTEBRAE.frame(mask_rows(case, found))
    with replacing_folder(out, marker="vertebrae.parquet") as folder:
        tables.write_table(folder / "vertebrae.parquet", tables.MASK_VERTEBRAE, table)
        tables.write_csv(folder / "vertebrae.csv", table)
        _draw(folder / "overlay.png", image or _as_image(read), read, found, table, case)
    for line in sentences(table):
        tell(line)
    return table


def _beside(other: LabelMap, mask: LabelMap) -> LabelMap:
    check_same_grid(other.source, other.grid, mask.source, mask.grid)
    return other


def _scan_beside(scan: Path, mask: LabelMap) -> Image:
    image = read_image(scan)
    check_same_grid(scan, image.grid, mask.source, _as_image(mask).grid)
    return image


def mask_rows(case: str, found: Sequence[MaskVertebra]) -> list[dict[str, Any]]:
    """Rows of MASK_VERTEBRAE, superior first."""
    rows = []
    for number, vertebra in enumerate(found, start=1):
        row: dict[str, Any] = {
            "case": case, "vertebra": number, "level": vertebra.level, "label": vertebra.label,
            "status": vertebra.status, "reason": vertebra.reason, "quality": vertebra.quality,
        }  # fmt: skip
        if vertebra.status == "ok":
            measured = heights(vertebra.keypoints)
            index = float(genant_index(measured))
            row |= {"genant": index, "grade": int(grade(index)), **tables.keypoint_values(vertebra.keypoints)}
            row |= {f"height_{name}_mm": float(mm) for name, mm in zip(HEIGHTS, measured, strict=True)}
        rows.append(row)
    return rows


def sentences(table: pd.DataFrame) -> list[str]:
    """One line for each vertebra of a table of MASK_VERTEBRAE."""
    lines = []
    for row in table.to_dict("records"):
        name, why = f"{row['level']:<4}", f" ({row['reason']})" if row["reason"] else ""
        if row["status"] != "ok":
            lines.append(f"{name} {row['status']}{why}")
            continue
        a, m, p = (row[f"height_{part}_mm"] for part in HEIGHTS)
        measures = f"heights {a:5.1f} {m:5.1f} {p:5.1f} mm  G {row['genant']:.3f}  grade {row['grade']}"
        lines.append(f"{name} {measures}  ok, {row['quality']}{why}")
    return lines


def _as_image(mask: LabelMap) -> Image:
    """The mask as a picture in which neighbouring vertebrae differ, in canonical order."""
    greys = np.full(int(mask.labels.max()) + 1, _GREYS[0], dtype=np.int16)
    greys[1::2] = _GREYS[1]
    greys[0] = -200
    return canonical(Image(greys[mask.labels], mask.grid, mask.source))


def _draw(
    path: Path, image: Image, mask: LabelMap, found: Sequence[MaskVertebra], table: pd.DataFrame, case: str
) -> None:
    from vertfrac.report.figures import overlay

    geometry = StraightSlice.along(_curve(found, mask), width_mm=WIDTH_MM, spacing_mm=SPACING_MM, extend_mm=EXTEND_MM)
    pixels: NDArray[np.float32] = sample(image.hu, image.grid, geometry.pixels_world(), outside=-1024)
    slice_hu = np.rint(pixels).astype(np.int16)
    overlay(path, image=image, geometry=geometry, slice_hu=slice_hu, vertebrae=table, title=case)


def _curve(found: Sequence[MaskVertebra], mask: LabelMap) -> Curve:
    """A curve through the measured bodies; through the middle of the mask where fewer than two are measured."""
    points = [centers(v.keypoints) for v in found if v.status == "ok"]
    try_points = np.array(points).reshape(-1, 3)
    z = np.sort(try_points[:, 2])
    if len(points) >= 2 and (np.diff(z) > 1.0).all():
        return curve_through_centers(try_points)
    middle = try_points[0] if len(points) else mask.grid.to_world(np.argwhere(mask.labels > 0)).mean(axis=0)
    return Curve(middle + np.array([[0.0, 0.0, 20.0], [0.0, 0.0, -20.0]]))
