"""What can be told about an annotation from its keypoints, its grid and its image: named findings.

An error excludes the case: trained on, it would teach something wrong. A warning lets the case pass and is told. The
ranges come from the public annotations of LungCancer500 (75 scans, 2-4 experts, C4-L3: 15,423 heights, 5,141 vertebrae,
at the nominal spacing of 0.7 x 0.7 x 0.8 mm; see ``docs/cohorts/nifti.md``), widened for levels and people beyond them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from vertfrac import tables
from vertfrac.cohorts.levels import LEVELS, parse_level, place
from vertfrac.errors import as_message
from vertfrac.genant import genant_index
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import HEIGHTS, centers, heights
from vertfrac.imaging import Image

Floats = NDArray[np.float64]
Severity = Literal["error", "warning"]

HEIGHT_MM, IMPOSSIBLE_HEIGHT_MM = (5.0, 45.0), (1.0, 60.0)
"""Usual and possible heights; public annotations: 2.3 to 33.4, 99.9 % of them above 6.6."""
DEPTH_MM, IMPOSSIBLE_DEPTH_MM = (8.0, 50.0), (4.0, 80.0)
"""Usual and possible distances of anterior and posterior height; public annotations: 9.1 to 41.8."""
PITCH_MM, IMPOSSIBLE_PITCH_MM = (10.0, 50.0), 4.0
"""Usual distances of neighbouring body centres, and the least possible; public annotations: 14.3 to 39.2."""
GAP_RATIO = 1.9
"""Without levels, a gap larger than this many usual ones lacks a vertebra; public annotations: up to 1.82."""
OFF_PLANE_MM, IMPOSSIBLE_OFF_PLANE_MM = 3.0, 10.0
"""Distance of a keypoint from the best plane through all six. The slice that training cuts holds the plane alone."""
TURNED_DEG, IMPOSSIBLE_TURN_DEG = 40.0, 60.0
"""Angle of the keypoints' plane to the sagittal one; a phantom's scoliosis of Cobb 40 turns it by 20."""
MEDIAN_GENANT = (0.6, 0.99)
"""Usual medians of G over one expert's vertebrae; public annotations: 0.73 to 0.93."""
GROWTH = -0.5
"""Least correlation of body size with the running number; public annotations: 0.76 to 0.99 (12 and more vertebrae)."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about an annotation.

    check : its name, as in ``docs/cohorts/nifti.md``. orientation : it says that image and annotation, or the parts of
    an annotation, are turned against each other.
    """

    severity: Severity
    check: str
    message: str
    orientation: bool = False

    def __str__(self) -> str:
        return self.message


def names_of(annotations: pd.DataFrame) -> list[str]:
    """What to call each row of ANNOTATIONS in a message: its level, or else its running number."""
    named = zip(annotations["level"].fillna(""), annotations["vertebra"], strict=True)
    return [str(level or number) for level, number in named]


def check_case(annotations: pd.DataFrame, image: Image) -> dict[str, list[Finding]]:
    """Findings on the annotation of one scan by each of its experts, rows of ANNOTATIONS."""
    found = {}
    for expert, rows in annotations.groupby("expert", sort=False):
        rows = rows.sort_values("vertebra", kind="stable")
        keypoints, names = tables.keypoints_of(rows), names_of(rows)
        findings = check_annotation(keypoints, names, image.grid)
        if not any(finding.severity == "error" for finding in findings):
            findings += check_image(keypoints, names, image.hu, image.grid)
        found[str(expert)] = findings
    return found


def check_annotation(keypoints: Floats, names: Sequence[str], grid: Grid) -> list[Finding]:
    """Findings on one expert's annotation of one scan, without looking at the image.

    keypoints : (n, 6, 3), world RAS mm, in the order of the running number. names : of each its level, or its number.
    """
    if not np.isfinite(keypoints).all():
        worst = names[int((~np.isfinite(keypoints)).any(axis=(1, 2)).argmax())]
        return [_error("coordinates", f"vertebra {worst} holds a missing or infinite coordinate, expected numbers")]
    found = [
        *_outside(keypoints, names, grid),
        *_sizes(keypoints, names),
        *_planes(keypoints, names),
        *_directions(keypoints, names),
        *_order(keypoints, names),
    ]
    broken = any(finding.severity == "error" for finding in found)
    return found if broken else [*found, *_distribution(keypoints)]


def _error(check: str, message: str, *, orientation: bool = False) -> Finding:
    return Finding("error", check, as_message(message), orientation)


def _warning(check: str, message: str, *, orientation: bool = False) -> Finding:
    return Finding("warning", check, as_message(message), orientation)


def _outside(keypoints: Floats, names: Sequence[str], grid: Grid) -> Iterator[Finding]:
    depth = grid.distance_inside_mm(keypoints).min(axis=1)
    if (depth >= 0).all():
        return
    turned = [
        how
        for how, points in _turned(keypoints, grid).items()
        if (grid.distance_inside_mm(points) >= 0).all() and not _upset(points)
    ]
    hint = f" ({turned[0]} all would lie inside)" if turned else ""
    yield _error(
        "outside",
        f"{_count(depth < 0, names)} lies outside the image, by up to {-depth.min():.1f} mm, expected inside{hint}",
        orientation=bool(turned),
    )


def _turned(keypoints: Floats, grid: Grid) -> dict[str, Floats]:
    """The keypoints under each of the usual mistakes: words that begin a sentence -> (n, 6, 3)."""
    x, y, z = np.moveaxis(keypoints, -1, 0)
    turned = {
        "with x and y negated (LPS taken for RAS)": (-x, -y, z),
        "with x and y exchanged": (y, x, z),
        "with x and z exchanged": (z, y, x),
        "with y and z exchanged": (x, z, y),
        "with the order of axes reversed cyclically": (y, z, x),
        "with the order of axes changed cyclically": (z, x, y),
    }
    voxels = grid.to_world(keypoints)
    if np.isfinite(voxels).all():
        turned["taken for voxel indices"] = tuple(np.moveaxis(voxels, -1, 0))
    return {how: np.stack(axes, axis=-1) for how, axes in turned.items()}


def _upset(keypoints: Floats) -> bool:
    """Whether most vertebrae stand on their head, face backwards or lie on their side."""
    up, forward = _axes(keypoints)
    return bool(np.median(up[:, 2]) < 0.5 or np.median(forward[:, 1]) < 0.5)


def _axes(keypoints: Floats) -> tuple[Floats, Floats]:
    """Unit vectors from inferior to superior and from posterior to anterior points, each (n, 3)."""
    up = (keypoints[:, 0::2] - keypoints[:, 1::2]).mean(axis=1)
    forward = (keypoints[:, 0:2] - keypoints[:, 4:6]).mean(axis=1)
    return _unit(up), _unit(forward)


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))


def _sizes(keypoints: Floats, names: Sequence[str]) -> Iterator[Finding]:
    depth = np.linalg.norm(keypoints[:, 0:2].mean(axis=1) - keypoints[:, 4:6].mean(axis=1), axis=-1)
    tall = heights(keypoints)
    for check, what, values, usual, possible in (
        *(("height", f"{part} height", tall[:, k], HEIGHT_MM, IMPOSSIBLE_HEIGHT_MM) for k, part in enumerate(HEIGHTS)),
        ("depth", "depth", depth, DEPTH_MM, IMPOSSIBLE_DEPTH_MM),
    ):
        for tell, (low, high) in ((_error, possible), (_warning, usual)):
            strange = (values < low) | (values > high)
            if strange.any():
                worst = int(np.where(strange, np.abs(values - sum(usual) / 2), -1).argmax())
                yield tell(
                    check,
                    f"{_count(strange, names)} measures {values[worst]:.1f} mm in {what}, "
                    f"expected {low:g} to {high:g} mm",
                )
                break


def _planes(keypoints: Floats, names: Sequence[str]) -> Iterator[Finding]:
    centred = keypoints - keypoints.mean(axis=1, keepdims=True)
    normals = np.linalg.svd(centred, full_matrices=False)[2][:, 2]
    off = np.abs(np.einsum("nij,nj->ni", centred, normals)).max(axis=1)
    for tell, most in ((_error, IMPOSSIBLE_OFF_PLANE_MM), (_warning, OFF_PLANE_MM)):
        if (off > most).any():
            yield tell(
                "coplanar",
                f"{_count(off > most, names)} has a keypoint {off.max():.1f} mm off the best plane through its six, "
                f"expected at most {most:g} mm",
            )
            return
    turn = np.degrees(np.arccos(np.clip(np.abs(normals[:, 0]), 0, 1)))
    for tell, most in ((_error, IMPOSSIBLE_TURN_DEG), (_warning, TURNED_DEG)):
        if (turn > most).any():
            yield tell(
                "sagittal",
                f"{_count(turn > most, names)} lies in a plane {turn.max():.0f} degrees from the sagittal one, "
                f"expected at most {most:g}" + (" (are the axes exchanged?)" if tell is _error else ""),
                orientation=tell is _error,
            )
            return


def _directions(keypoints: Floats, names: Sequence[str]) -> Iterator[Finding]:
    """Each height runs from superior to inferior, and anterior, middle and posterior follow each other."""
    up = keypoints[:, 0::2, 2] - keypoints[:, 1::2, 2]
    inverted = up.mean(axis=1) < 0
    if inverted.any():
        yield _error(
            "superior_inferior",
            f"{_count(inverted, names)} has its superior points below the inferior ones"
            + _all(inverted, "up-down flip?"),
            orientation=True,
        )
    lone = (up < 0).any(axis=1) & ~inverted
    if lone.any():
        yield _error(
            "superior_inferior", f"{_count(lone, names)} has superior and inferior end of one height exchanged"
        )
    _, forward = _axes(keypoints)
    backward = forward[:, 1] < 0
    if backward.any():
        yield _error(
            "anterior_posterior",
            f"{_count(backward, names)} has its anterior points behind the posterior ones"
            + _all(backward, "front-back flip, or LPS taken for RAS?"),
            orientation=True,
        )
    along = np.einsum("nkj,nj->nk", keypoints[:, 0::2] + keypoints[:, 1::2], forward)
    between = (along[:, 1] > along[:, 0]) | (along[:, 1] < along[:, 2])
    if between.any():
        yield _error("anterior_posterior", f"{_count(between, names)} has its middle height not between the other two")


def _order(keypoints: Floats, names: Sequence[str]) -> Iterator[Finding]:
    """Numbers and levels run downwards, each once, at the distances of neighbours."""
    levels = [parse_level(name) for name in names]
    numbers = [name for name in names if name.isdigit()]
    if len(set(numbers)) < len(numbers):
        yield _error("order", f"number {max(numbers, key=numbers.count)} occurs twice, expected each vertebra once")
        return
    twice = sorted(level for level, count in Counter(levels).items() if level and count > 1)
    if twice:
        yield _error("levels", f"level {', '.join(twice)} occurs twice, expected each once")
        return
    strange = [name for name, level in zip(names, levels, strict=True) if level is None and not name.isdigit()]
    if strange:
        yield _warning("levels", f"unknown level {', '.join(strange)}, expected {LEVELS[0]} to {LEVELS[-1]}")
    middle = centers(keypoints)
    named = [k for k, level in enumerate(levels) if level]
    ranks = np.array([LEVELS.index(str(levels[k])) for k in named])
    by_level = np.argsort(ranks)
    yield from _descent(middle[named][by_level], [names[named[k]] for k in by_level], "levels")
    if len(named) < len(names):
        yield from _descent(middle, names, "order")
    yield from _pitch(middle, names, levels)


def _descent(middle: Floats, names: Sequence[str], check: str) -> Iterator[Finding]:
    rise = np.diff(middle[:, 2])
    if not (rise > 0).any():
        return
    k = int(rise.argmax())
    if 2 * (rise > 0).sum() > len(rise):
        yield _error(
            check,
            f"{'levels' if check == 'levels' else 'running numbers'} run upwards, {names[k + 1]} lies {rise[k]:.0f} mm "
            f"above {names[k]}, expected below (up-down flip?)",
            orientation=True,
        )
    else:
        yield _warning(check, f"{names[k + 1]} lies {rise[k]:.0f} mm above {names[k]}, expected below")


def _pitch(middle: Floats, names: Sequence[str], levels: Sequence[str | None]) -> Iterator[Finding]:
    """Distances of neighbouring body centres: too near is one vertebra marked twice, too far is one left out."""
    order = np.argsort(-middle[:, 2])
    gaps = np.linalg.norm(np.diff(middle[order], axis=0), axis=1)
    if not len(gaps):
        return
    pairs = [(levels[upper], levels[lower]) for upper, lower in pairwise(order)]
    steps = np.array([max(1.0, place(below) - place(above)) if above and below else 1.0 for above, below in pairs])
    usual = float(np.median(gaps / steps))

    def pair(k: int) -> str:
        return f"{names[order[k]]} and {names[order[k + 1]]}"

    k = int(gaps.argmin())
    if gaps[k] < IMPOSSIBLE_PITCH_MM:
        yield _error("distance", f"centres of {pair(k)} are {gaps[k]:.1f} mm apart: one vertebra marked twice?")
    elif gaps[k] < PITCH_MM[0]:
        yield _warning("distance", f"centres of {pair(k)} are {gaps[k]:.1f} mm apart, expected {PITCH_MM[0]:g} or more")
    k = int((gaps / steps).argmax())
    if gaps[k] > steps[k] * (min(PITCH_MM[1], GAP_RATIO * usual) if len(gaps) > 2 else PITCH_MM[1]):
        yield _warning(
            "distance",
            f"centres of {pair(k)} are {gaps[k]:.0f} mm apart, expected about {usual * steps[k]:.0f} mm: "
            "a vertebra left out?",
        )


def _distribution(keypoints: Floats) -> Iterator[Finding]:
    """What is strange only about all vertebrae together."""
    index = genant_index(heights(keypoints))
    median = float(np.median(index))
    if len(index) > 2 and not MEDIAN_GENANT[0] <= median <= MEDIAN_GENANT[1]:
        low, high = MEDIAN_GENANT
        yield _warning("genant", f"median G is {median:.2f}, expected {low:g} to {high:g}: are keypoints mixed up?")
    size = heights(keypoints).mean(axis=1) * np.linalg.norm(keypoints[:, 0] - keypoints[:, 4], axis=-1)
    if len(size) >= 6 and size.std() > 0.05 * size.mean():
        growth = float(np.corrcoef(-centers(keypoints)[:, 2], size)[0, 1])
        if growth < GROWTH:
            yield _warning(
                "growth",
                f"bodies get smaller downwards (correlation {growth:.2f}), expected larger (up-down flip?)",
                orientation=True,
            )


def _count(which: NDArray[Any], names: Sequence[str]) -> str:
    """The vertebrae meant, in words that go with a verb in the singular."""
    chosen = [name for name, taken in zip(names, which, strict=True) if taken]
    if len(chosen) == 1:
        return f"vertebra {chosen[0]}"
    if len(chosen) == len(names):
        return f"each of {len(chosen)} vertebrae"
    return f"each of the vertebrae {', '.join(chosen[:4])}" + (
        f" and {len(chosen) - 4} more" if len(chosen) > 4 else ""
    )


def _all(which: NDArray[Any], suspicion: str) -> str:
    return f" ({suspicion})" if which.mean() > 0.5 else ""


# --- what the image says


BODY_HU = -60.0
"""A body whose mean is below it holds air or fat; that of an osteoporotic one is above 0."""
MIRRORS: dict[str, tuple[int, ...]] = {
    "left to right": (0,),
    "front to back": (1,),
    "upside down": (2,),
    "left to right and front to back (LPS taken for RAS)": (0, 1),
}
"""Ways in which an image is stored wrongly: the axes that are mirrored about the middle of the image."""
BETTER, BETTER_HU, ENOUGH_HU = 1.4, 40.0, 60.0
"""A mirrored position is suspected if it fits better by this factor and by so many HU, and with at least so many."""
BONE_HU = 180.0
BEFORE, BEFORE_RATIO = 0.1, 2.5
"""More than this share of bone before the bodies, and so many times the share behind them, is the wrong way round."""


def check_image(keypoints: Floats, names: Sequence[str], hu: NDArray[Any], grid: Grid) -> list[Finding]:
    """Findings on how one expert's annotation fits the image.

    keypoints : (n, 6, 3), world RAS mm, finite and inside. hu : canonical values on the grid. A mirror about the middle
    of the image is suspected where the rims of the bodies would lie on bone, beside softer tissue, clearly better than
    they do as given. Image and annotation mirrored together are only told front to back, by the arches.
    """
    found = []
    inside = _body_values(keypoints, hu, grid)
    empty = inside < BODY_HU
    if 3 * empty.sum() >= len(empty):
        found.append(
            _warning(
                "bone",
                f"{_count(empty, names)} holds no bone (mean {inside[empty].mean():.0f} HU, expected more than "
                f"{BODY_HU:g}): does the annotation belong to this image?",
                orientation=True,
            )
        )
    given = fit(keypoints, hu, grid)
    mirrored = {how: fit(_mirrored(keypoints, axes, grid), hu, grid) for how, axes in MIRRORS.items()}
    best = max(mirrored, key=lambda how: mirrored[how])
    if mirrored[best] > max(BETTER * given, given + BETTER_HU, ENOUGH_HU):
        return [
            *found,
            _warning(
                "mirror",
                f"the annotation fits the image mirrored {best} better than as it is (contrast of the bodies' rims "
                f"{mirrored[best]:.0f} HU instead of {given:.0f} HU)",
                orientation=True,
            ),
        ]
    behind, before = arches(keypoints, hu, grid)
    if before > max(BEFORE, BEFORE_RATIO * behind):
        found.append(
            _warning(
                "arches",
                f"{100 * behind:.0f} % bone behind the bodies and {100 * before:.0f} % before them, expected arches "
                "behind (front-back flip of image and annotation?)",
                orientation=True,
            )
        )
    return found


def _mirrored(keypoints: Floats, axes: tuple[int, ...], grid: Grid) -> Floats:
    """The world points where an image mirrored along index axes about its middle shows what it has at the keypoints."""
    index = grid.to_index(keypoints)
    for axis in axes:
        index[..., axis] = grid.shape[axis] - 1 - index[..., axis]
    return grid.to_world(index)


def fit(keypoints: Floats, hu: NDArray[Any], grid: Grid) -> float:
    """How well the bodies fit the image: the median over vertebrae of the contrast of their rims, HU.

    The rim is the brightest value within 2 mm of the endplates, the anterior and the posterior wall; the contrast is
    that to the discs 5 mm beyond the endplates, to 7 mm before the body and to the canal 8 mm behind it.
    """
    tall = float(np.median(heights(keypoints)[:, 1]))
    deep = float(np.median(np.linalg.norm(keypoints[:, 0] - keypoints[:, 4], axis=-1)))
    near = np.linspace(-2.0, 2.0, 5)[:, None]
    u, v, short = np.linspace(0.2, 0.8, 7)[None], np.linspace(0.15, 0.85, 7)[None], np.linspace(0.3, 0.7, 5)[None]
    rim = [(u, near / tall), (u, 1 + near / tall), (near / deep, v), (1 + near / deep, v)]
    beside = [(short, -5 / tall), (short, 1 + 5 / tall), (-7 / deep, v), (1 + 8 / deep, v)]
    bright = [_values(keypoints, *place, hu, grid, 500.0).max(axis=1).mean(axis=1) for place in rim]
    soft = [_values(keypoints, *place, hu, grid, 300.0).mean(axis=(1, 2)) for place in beside]
    plates, walls = (bright[0] + bright[1]) / 2, bright[2] + bright[3]
    discs, around = (soft[0] + soft[1]) / 2, soft[2] + soft[3]
    return float(np.median((plates + walls - discs - around) / 3))


def arches(keypoints: Floats, hu: NDArray[Any], grid: Grid) -> tuple[float, float]:
    """Share of bone in the plane of the keypoints, from 15 to 45 mm behind the bodies and as far before them."""
    deep = float(np.median(np.linalg.norm(keypoints[:, 0] - keypoints[:, 4], axis=-1)))
    far, v = np.linspace(15.0, 45.0, 16)[None] / deep, np.linspace(-0.3, 1.3, 12)[:, None]
    behind, before = (float((_values(keypoints, u, v, hu, grid, 500.0) > BONE_HU).mean()) for u in (1 + far, -far))
    return behind, before


def _body_values(keypoints: Floats, hu: NDArray[Any], grid: Grid) -> Floats:
    """Mean HU inside each body, (n,), over its middle half in height and depth."""
    middle = np.linspace(0.25, 0.75, 5)
    return np.asarray(_values(keypoints, middle[None], middle[:, None], hu, grid, 300.0).mean(axis=(1, 2)))


def _values(keypoints: Floats, u: Any, v: Any, hu: NDArray[Any], grid: Grid, highest: float) -> Floats:
    """HU, clipped from -150 to highest, at places in the plane of each vertebra; (n, *broadcast of u and v).

    u runs from 0 at the anterior to 1 at the posterior height, v from 0 at the superior to 1 at the inferior points;
    both may go beyond.
    """
    u, v = (np.asarray(a, dtype=np.float64)[None, ..., None] for a in np.broadcast_arrays(u, v))
    anterior, middle, posterior = (
        (1 - v) * keypoints[:, k, None, None] + v * keypoints[:, k + 1, None, None] for k in (0, 2, 4)
    )
    points = np.where(u <= 0.5, anterior + (middle - anterior) * 2 * u, middle + (posterior - middle) * (2 * u - 1))
    index = np.moveaxis(grid.to_index(points), -1, 0)
    values = map_coordinates(hu, index, output=np.float32, order=1, mode="constant", cval=-1024.0)
    return np.asarray(np.clip(values, -150.0, highest), dtype=np.float64)
