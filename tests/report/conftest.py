"""Graded scans as ``vertfrac predict`` leaves them, without a model: vertebrae are put where bodies are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.files import write_json
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.curve import Curve
from vertfrac.geometry.keypoints import HEIGHTS, heights
from vertfrac.geometry.straighten import StraightSlice
from vertfrac.imaging import Image, read_image
from vertfrac.inference.named import apply_levels
from vertfrac.inference.scan import worst
from vertfrac.report.views import FILE, write_views

Floats = NDArray[np.float64]

PITCH_MM = 26.0


def bone(x: Floats, y: Floats, z: Floats) -> Floats:
    """Five bodies of 26 x 20 mm around y = 40, dense at their rims, in soft tissue with air in front."""
    up = np.abs((130 - z + 13) % PITCH_MM - 13)
    inside = (np.abs(x - 40) < 18) & (np.abs(y - 40) <= 14) & (up <= 11) & (z > 10) & (z < 145)
    rim = inside & ((np.abs(y - 40) > 11) | (up > 8))
    return np.where(rim, 700, np.where(inside, 150, np.where(y > 85, -1000, 30)))


def bent_slice(bend_mm: float = 1.0, length_mm: float = 130.0) -> StraightSlice:
    """A slice along a curve around x = y = 40 that bends to both sides; row 0 lies at about z = 150."""
    t = np.linspace(0, 1, 40)
    points = np.column_stack(
        [40 + bend_mm * np.sin(5 * t), 40 + bend_mm * np.cos(4 * t) - bend_mm, 145 - length_mm * t]
    )
    return StraightSlice.along(Curve(points), width_mm=64, spacing_mm=1.0, extend_mm=5)


def body_on(geometry: StraightSlice, row: float, tall: Sequence[float]) -> Floats:
    """Six keypoints (6, 3), world, of a body at a row of the slice with the three heights (in rows)."""
    column = geometry.center_column
    places = [
        (row + sign * high / 2, column + depth, 0.0)
        for high, depth in zip(tall, (-13.0, 0.0, 13.0), strict=True)
        for sign in (-1, 1)
    ]
    return geometry.to_world(places)


@dataclass(frozen=True)
class Graded:
    """A folder of results, of copies of one scan under several names."""

    out: Path
    scan: Path


@pytest.fixture
def grade_scans(tmp_path: Path, write_scan: Callable[..., Path]) -> Callable[..., Graded]:
    """Write a folder of results. graded : case -> number of vertebrae; failed : case -> reason."""

    def make(graded: dict[str, int], failed: dict[str, str] | None = None, **more: Any) -> Graded:
        out, rows = tmp_path / "graded", []
        path = write_scan(tmp_path / "scans" / "ct.nii.gz", bone)
        image = read_image(path)
        for case, count in graded.items():
            rows.append(_write_scan(out / case, case, image, count, **more))
        for case, reason in (failed or {}).items():
            rows.append({"case": case, "source": f"/data/{case}", "status": "failed", "reason": reason, "seconds": 1.0})
        tables.write_table(out / "scans.parquet", tables.SCAN_RESULTS, rows)
        return Graded(out, path)

    return make


def _write_scan(
    folder: Path,
    case: str,
    image: Image,
    count: int,
    *,
    tall: Sequence[float] = (20, 18, 21),
    statuses: Sequence[str] = (),
    levels: Sequence[str] = (),
    runner_ups: Sequence[str] = (),
    warnings: str = "",
) -> dict[str, Any]:
    pitch = PITCH_MM if count <= 5 else 12.0
    geometry = bent_slice(length_mm=max(130.0, pitch * count))
    first = float(geometry.to_slice([40, 40, 130.0])[0])
    rows = []
    for n in range(count):
        scale = 1.0 if count <= 5 else 0.45
        points = body_on(geometry, first + n * pitch, [scale * mm for mm in tall])
        h = heights(points)
        index = float(genant_index(h))
        status = statuses[n] if n < len(statuses) else "ok"
        rows.append(
            {
                "system": "tiny", "case": case, "vertebra": n + 1, "level": levels[n] if n < len(levels) else "",
                "status": status, "score": 0.9, "genant": index, "grade": int(grade(index)) if status == "ok" else None,
                **{f"height_{name}_mm": float(mm) for name, mm in zip(HEIGHTS, h, strict=True)},
                **tables.keypoint_values(points),
            }
        )  # fmt: skip
    found = tables.VERTEBRAE.frame(rows)
    if levels:
        others = [*runner_ups, *[""] * (count - len(runner_ups))]
        given = [*levels, *[""] * (count - len(levels))]
        found = apply_levels(found, given, [0.83 if level else np.nan for level in given], others)
    vertebrae = tables.write_table(folder / "vertebrae.parquet", tables.VERTEBRAE, found)
    write_views(folder / FILE, image=image, geometry=geometry, vertebrae=vertebrae)
    card = {
        "shape": list(image.grid.shape), "spacing_mm": image.grid.spacing_mm.tolist(),
        "model": {"name": "tiny"}, "versions": {"vertfrac": "0.1.0"},
    }  # fmt: skip
    write_json(folder / "scan.json", card)
    return {
        "case": case, "source": image.source, "status": "ok", "reason": "", **worst(vertebrae),
        "warnings": warnings, "seconds": 1.0,
    }  # fmt: skip
