"""Phantoms grown around six-keypoint annotations of patients: their geometry is real, all else is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.lungcancer500_json import annotation_rows, nominal_affine, read_studies
from vertfrac.cohorts.phantom.anatomy import PLACES, Column, Vertebra, typical_size
from vertfrac.errors import AnnotationError
from vertfrac.geometry.keypoints import heights

Floats = NDArray[np.float64]

FEWEST = 3


@dataclass(frozen=True)
class Template:
    """One expert's vertebrae of one case, superior first: levels of `PLACES`, keypoints (n, 6, 3) in world RAS mm."""

    source: str
    levels: tuple[str, ...]
    keypoints: Floats


def read_templates(path: Path, spacing_mm: Sequence[float]) -> tuple[Template, ...]:
    """Templates from a table of annotations or a folder of LungCancer-500 JSON files, one per case and expert.

    spacing_mm : distance of rows, columns and slices, for the folder, whose files do not hold it. Levels that are not
    named are taken from the sizes. Raises AnnotationError, naming file and case, for fewer than three vertebrae, a
    vertebra that occurs twice or has no phantom (C1, C2, S1), and one that is not a body seen from the side.
    """
    if path.is_dir():
        studies = read_studies(path)
        rows = [
            row
            for _, study in studies
            for row in annotation_rows(study, nominal_affine(spacing_mm, downwards=study.downwards))
        ]
        marks = tables.ANNOTATIONS.frame(pd.DataFrame(rows))
    else:
        marks = tables.read_table(path, tables.ANNOTATIONS)
    if marks.empty:
        raise AnnotationError(f"{path}: no annotation, expected one row per vertebra")
    marks["expert"] = marks["expert"].fillna(tables.DEFAULT_EXPERT)
    return tuple(
        _template(f"{path}: case {case}, {expert}", rows) for (case, expert), rows in marks.groupby(["case", "expert"])
    )


def _template(source: str, rows: pd.DataFrame) -> Template:
    keypoints = tables.keypoints_of(rows)
    if len(keypoints) < FEWEST:
        raise AnnotationError(f"{source}: found {len(keypoints)} vertebrae, expected {FEWEST} or more")
    tall = heights(keypoints)
    deep = _depths(keypoints)
    wrong = ~(np.isfinite(tall).all(axis=1) & (tall > 2).all(axis=1) & (deep > 5))
    if wrong.any():
        k = int(wrong.argmax())
        found = ", ".join(f"{value:.1f}" for value in (*tall[k], deep[k]))
        raise AnnotationError(
            f"{source}, vertebra {rows.iloc[k]['vertebra']}: heights and depth are {found} mm, expected heights over "
            "2 mm and a depth over 5 mm"
        )
    named = rows["level"].fillna("").astype(str).tolist()
    if not all(named):
        order = np.argsort(-keypoints[:, :, 2].mean(axis=1), kind="stable")
        keypoints, levels = keypoints[order], _levels_by_size(tall[order], deep[order], source)
    else:
        strange = [level for level in named if level not in PLACES]
        if strange or len(set(named)) < len(named):
            what = strange[0] if strange else next(level for level in named if named.count(level) > 1)
            raise AnnotationError(
                f"{source}: found the level {what}{'' if strange else ' twice'}, expected C3 to L6 once"
            )
        order = np.argsort([PLACES[level] for level in named])
        keypoints, levels = keypoints[order], [named[k] for k in order]
    return Template(source, tuple(levels), keypoints)


def _depths(keypoints: Floats) -> Floats:
    """Distance (n,) of anterior and posterior heights; keypoints (n, 6, 3)."""
    between = keypoints[:, [0, 1]].mean(axis=1) - keypoints[:, [4, 5]].mean(axis=1)
    return np.asarray(np.linalg.norm(between, axis=1))


def _levels_by_size(tall: Floats, deep: Floats, source: str) -> list[str]:
    """Consecutive levels whose typical heights (n, 3) and depths (n,) fit best, whatever the patient's size."""
    usual = [level for level, place in PLACES.items() if place == int(place)]
    if len(tall) > len(usual):
        raise AnnotationError(f"{source}: found {len(tall)} vertebrae without levels, expected at most {len(usual)}")
    sizes = np.log(np.column_stack([tall, deep]))
    typical = np.log([typical_size(level) for level in usual])
    misfits = []
    for first in range(len(usual) - len(tall) + 1):
        gap = sizes - typical[first : first + len(tall)]
        misfits.append(np.abs(gap - np.median(gap)).mean() + 0.3 * abs(np.median(gap)))
    start = int(np.argmin(misfits))
    return usual[start : start + len(tall)]


def grow(column: Column, template: Template, rng: np.random.Generator) -> Column:
    """The column with the template's vertebrae in place of its own, which go on above and below them.

    Missing vertebrae between two of the template's are put between them. The scan covers them and a little more.
    """
    own = {v.level: v for v in column.vertebrae}
    typical = np.array([typical_size(level)[3] for level in template.levels])
    ratio = _depths(template.keypoints) / typical
    size = float(np.clip(np.median(ratio), 0.6, 1.6))
    scale = size / column.size
    real = [
        _measured(points, level, own.get(level, column.vertebrae[-1]), scale, rng)
        for points, level in zip(template.keypoints, template.levels, strict=True)
    ]
    places = np.array([v.place for v in real])
    spine: list[Vertebra] = []
    for v in column.vertebrae:
        if v.place < places[0]:
            spine.append(_carried(v, _nearest(own, real[0]), real[0], scale))
        elif v.place > places[-1]:
            spine.append(_carried(v, _nearest(own, real[-1]), real[-1], scale))
        elif v.place not in places and v.place == int(v.place):
            spine.append(_between(v, real, scale))
    spine = sorted((*spine, *real), key=lambda v: v.place)
    low, high = template.keypoints[:, :, 2].min(), template.keypoints[:, :, 2].max()
    ups = np.array([v.rotation[:, 2] for v in real])
    lean = np.rad2deg(np.arctan2(ups[:, :2], ups[:, 2:]))  # to the right, to the front
    chest, loin = (places > PLACES["C7"]) & (places < PLACES["L1"]), places >= PLACES["T12"]
    return replace(
        column,
        vertebrae=tuple(spine),
        field="annotated",
        z_low=float(low - rng.uniform(3, 60)),
        z_high=float(high + rng.uniform(3, 60)),
        cobb=float(np.ptp(lean[:, 0])),
        kyphosis=float(np.ptp(lean[chest, 1])) if chest.any() else 0.0,
        lordosis=float(np.ptp(lean[loin, 1])) if loin.any() else 0.0,
        size=size,
    )


def _measured(points: Floats, level: str, like: Vertebra, scale: float, rng: np.random.Generator) -> Vertebra:
    """A vertebra whose keypoints are these six points, put into one plane if they are not."""
    fore = points[[0, 1]].mean(axis=0) - points[[4, 5]].mean(axis=0)
    up = points[0::2].mean(axis=0) - points[1::2].mean(axis=0)
    lateral = np.cross(fore, up)
    lateral /= np.linalg.norm(lateral)
    fore /= np.linalg.norm(fore)
    frame = np.column_stack([lateral, fore, np.cross(lateral, fore)])
    middle = points.mean(axis=0)
    outline = (points - middle) @ frame[:, 1:]
    shift = np.array([outline[:, 0].mean(), outline[[2, 3], 1].mean()])
    vertebra = Vertebra(
        level=level,
        shape="normal",
        outline=outline - shift,
        depth=float(outline[:2, 0].mean() - outline[4:, 0].mean()),
        width=like.width * scale,
        center=middle + frame[:, 1:] @ shift,
        rotation=frame,
        sclerosis=False,
    )
    if vertebra.genant > 0.8:
        return vertebra
    lowest = ("wedge", "biconcave", "crush")[int(np.argmin(heights(vertebra.outline)))]
    return replace(vertebra, shape=lowest, sclerosis=bool(rng.random() < 0.45))


def _nearest(own: dict[str, Vertebra], real: Vertebra) -> Vertebra:
    return own.get(real.level) or min(own.values(), key=lambda v: abs(v.place - real.place))


def _carried(v: Vertebra, start: Vertebra, end: Vertebra, scale: float) -> Vertebra:
    """A vertebra moved with another one from where that was to where it is now."""
    turn = end.rotation @ start.rotation.T
    return _scaled(v, scale, end.center + scale * turn @ (v.center - start.center), turn @ v.rotation)


def _between(v: Vertebra, real: Sequence[Vertebra], scale: float) -> Vertebra:
    upper = max((r for r in real if r.place < v.place), key=lambda r: r.place)
    lower = min((r for r in real if r.place > v.place), key=lambda r: r.place)
    share = (v.place - upper.place) / (lower.place - upper.place)
    mixed = (1 - share) * upper.rotation + share * lower.rotation
    u, _, w = np.linalg.svd(mixed)
    return _scaled(v, scale, (1 - share) * upper.center + share * lower.center, u @ w)


def _scaled(v: Vertebra, scale: float, center: Floats, rotation: Floats) -> Vertebra:
    return replace(
        v,
        outline=v.outline * scale,
        depth=v.depth * scale,
        width=v.width * scale,
        center=center,
        rotation=rotation,
    )
