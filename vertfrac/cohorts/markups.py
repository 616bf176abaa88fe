"""Markups files of 3D Slicer (``.mrk.json``): fiducials or rulers become keypoints in world RAS mm, and back.

A vertebra is six labelled control points of point lists (type Fiducial) or three rulers (type Line). Which end of a
ruler is superior is read from the geometry, never from the order of the clicks; so is which of three rulers that name
only the vertebra is the anterior one. ``docs/cohorts/nifti.md`` lists the spellings of labels.

What ``vertfrac predict`` wrote (``report.slicer``) is read too. Its curve of the spine is passed over, since the curve
of an annotation follows from its vertebrae; so is a vertebra that it did not grade, as long as nobody touched it.

The format: https://github.com/Slicer/Slicer/tree/main/Modules/Loadable/Markups/Resources/Schema (v1.0.3).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vertfrac import tables
from vertfrac.cohorts.annotation_json import ReadAnnotation, annotation_rows
from vertfrac.cohorts.levels import parse_level
from vertfrac.errors import AnnotationError, TableError
from vertfrac.files import read_json, write_json
from vertfrac.geometry.keypoints import HEIGHTS, KEYPOINTS

Floats = NDArray[np.float64]

ENDING = ".mrk.json"
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)
_LPS, _RAS = np.diag([-1.0, -1.0, 1.0]), np.eye(3)
_RAS_FROM: dict[str, Floats] = {"LPS": _LPS, "RAS": _RAS, "0": _RAS, "1": _LPS}
"""Numbers are what old releases of 3D Slicer wrote."""
_MM_PER_UNIT = {"mm": 1.0, "um": 1e-3}
_LABEL = re.compile(
    r"(?P<vertebra>[A-Za-z]*\d+)"
    r"(?:[\s_\-./]+(?:(?P<part>anterior|ant|a|middle|mid|m|posterior|post|pos|p)"
    r"(?:[\s_\-./]*(?P<end>superior|sup|s|inferior|inf|i))?)?)?",
    re.IGNORECASE,
)
CURVE = "spine"
"""What the curve of the spine is called: a markup of type Curve, which holds no annotation."""

_NOTE = re.compile(r"not graded \((?P<status>\w+)\), predicted at R (?P<R>\S+) A (?P<A>\S+) S (?P<S>\S+)")
_MOVED_MM = 0.01
"""A control point farther than this from where its note has it was moved by a person."""
_PARTS = {"a": "anterior", "m": "middle", "p": "posterior"}
_ENDS = {"s": "superior", "i": "inferior"}


@dataclass(frozen=True)
class _Label:
    """What a label names: the vertebra ("L1", or a number), the height and its end, "" where it does not say."""

    vertebra: str
    part: str
    end: str

    @property
    def level(self) -> str:
        return parse_level(self.vertebra) or ""


@dataclass
class _Marks:
    """What was marked of one vertebra, by whatever files: world RAS mm.

    untouched : the status that vertfrac gave the vertebra, for each point that lies where it put it. touched : how many
    other points there are.
    """

    points: dict[str, Floats] = field(default_factory=dict)
    rulers: dict[str, Floats] = field(default_factory=dict)
    unnamed_rulers: list[Floats] = field(default_factory=list)
    unplaced: int = 0
    untouched: list[str] = field(default_factory=list)
    touched: int = 0

    @property
    def withheld(self) -> bool:
        """Whether it is no annotation: vertfrac did not grade it, and nobody has touched it since."""
        return bool(self.untouched) and not self.touched


def read_markups(paths: Sequence[Path], case: str, expert: str = tables.DEFAULT_EXPERT) -> ReadAnnotation:
    """Read the markups files of one expert, in which a vertebra may be spread over several of them.

    A vertebra that vertfrac did not grade, and whose points nobody has moved, is left out. Raises AnnotationError that
    names the file, or the vertebra that is incomplete or given twice.
    """
    marks = _marks(paths)
    files = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
    complete = [
        (expert, parse_level(name) or "", _keypoints(found, f"{files}: vertebra {name}"))
        for name, found in marks.items()
        if (found.points or found.rulers or found.unnamed_rulers) and not found.withheld
    ]
    left_out = tuple(
        f"vertebra {name} passed over: vertfrac did not grade it ({found.untouched[0]}) and its points were not moved"
        for name, found in marks.items()
        if found.withheld
    )
    return ReadAnnotation(annotation_rows(case, complete), left_out)


def _marks(paths: Sequence[Path]) -> dict[str, _Marks]:
    marks: dict[str, _Marks] = defaultdict(_Marks)
    for path in paths:
        for where, markup in _markups(path):
            _gather(markup, where, path, marks)
    return marks


def write_rulers(path: Path | str, annotations: pd.DataFrame) -> None:
    """Write the heights of one case as seen by one expert as rulers for 3D Slicer, three per vertebra, in LPS mm.

    annotations : rows with level, vertebra and the 18 keypoint columns, as of ANNOTATIONS or VERTEBRAE.
    """
    write_markups(path, [line for lines in rulers(annotations) for line in lines])


def write_markups(path: Path | str, markups: Sequence[dict[str, Any]]) -> None:
    """Write markups as one file of 3D Slicer, atomically."""
    write_json(path, {"@schema": _SCHEMA, "markups": list(markups)})


def rulers(annotations: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The three markups of type Line, in LPS mm, of each row with level, vertebra and the 18 keypoint columns.

    A vertebra is named by its level, or by its number where it has none, or one that another row has too.
    """
    levels = [parse_level(str(level)) for level in annotations["level"]]
    names = [
        level if level is not None and levels.count(level) == 1 else str(number)
        for level, number in zip(levels, annotations["vertebra"], strict=True)
    ]
    return [
        [
            markup(
                "Line", f"{name} {part}", zip((f"{name} {part} superior", f"{name} {part} inferior"), pair, strict=True)
            )
            for part, pair in zip(HEIGHTS, points.reshape(3, 2, 3), strict=True)
        ]
        for name, points in zip(names, tables.keypoints_of(annotations), strict=True)
    ]


def markup(kind: str, name: str, points: Iterable[tuple[str, Floats]]) -> dict[str, Any]:
    """A markup of any type in LPS mm. points : label and place (3,), world RAS mm, of each control point."""
    placed = [
        {"id": str(k), "label": label, "position": (_LPS @ point).tolist(), "positionStatus": "defined"}
        for k, (label, point) in enumerate(points, start=1)
    ]
    return {
        "type": kind,
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(placed),
        "controlPoints": placed,
    }


def not_graded(status: str, point: Floats) -> str:
    """The note on a control point (3,), world RAS mm, of a vertebra that was not graded: where it was predicted."""
    x, y, z = point
    return f"not graded ({status}), predicted at R {x:.3f} A {y:.3f} S {z:.3f}"


def _markups(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each markup of a file, with the words that say where it is."""
    try:
        content = read_json(path)
    except TableError as error:
        raise AnnotationError(str(error)) from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise AnnotationError(f"{path}: holds no list of markups, expected a markups file of 3D Slicer")
    for number, markup in enumerate(markups, start=1):
        yield f"{path}: markup {markup.get('name') or number}", markup


def _gather(markup: dict[str, Any], where: str, path: Path, marks: dict[str, _Marks]) -> None:
    """Sort the control points of one markup into the vertebrae that its labels name."""
    kind, points = markup.get("type"), markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise AnnotationError(f"{where}: controlPoints is no list of points, expected the points that were placed")
    if kind == "Curve" and _is_spine(markup, points, path):
        return
    if kind not in ("Fiducial", "Line"):
        raise AnnotationError(f"{where}: type is {kind!r}, expected Fiducial (points) or Line (rulers)")
    ras_mm_from_file = _frame(markup, where)
    placed = [_position(point, ras_mm_from_file, where) for point in points]
    if kind == "Fiducial":
        for point, position in zip(points, placed, strict=True):
            label = _label(str(point.get("label", "")))
            if label is None or not label.end:
                raise AnnotationError(
                    f"{where}: unknown label {point.get('label')!r}, expected such as 'L1 anterior superior' or 'L1-as'"
                )
            _put(marks[label.vertebra], f"{label.part}_{label.end}", position, where)
            _look_for_note(marks[label.vertebra], point, position)
        return
    label = _ruler_label(markup, points, path)
    if label is None:
        raise AnnotationError(
            f"{where}: unknown label, expected a name such as 'L1 anterior' of the ruler, of its points or of the file"
        )
    if not any(position is not None for position in placed):
        marks[label.vertebra].unplaced += 1
        return
    if len(placed) != 2 or placed[0] is None or placed[1] is None:
        count = sum(position is not None for position in placed)
        raise AnnotationError(f"{where}: a ruler with {count} placed points, expected 2")
    pair = np.stack([placed[0], placed[1]])
    of = marks[label.vertebra]
    for point, position in zip(points, placed, strict=True):
        _look_for_note(of, point, position)
    if not label.part:
        of.unnamed_rulers.append(pair)
    elif label.part in of.rulers:
        raise AnnotationError(f"{where}: the {label.part} ruler of vertebra {label.vertebra} occurs twice")
    else:
        of.rulers[label.part] = pair


def _is_spine(markup: dict[str, Any], points: list[dict[str, Any]], path: Path) -> bool:
    """Whether a curve is that of the spine, by its own name, its points' labels without their numbers, or the file."""
    labels = {re.sub(r"-\d+$", "", str(point.get("label", ""))) for point in points}
    return CURVE in (markup.get("name"), path.name.removesuffix(ENDING)) or labels == {CURVE}


def _look_for_note(of: _Marks, point: dict[str, Any], position: Floats | None) -> None:
    """Tell a point that vertfrac did not vouch for, and that lies where vertfrac put it, from all others."""
    note = _NOTE.search(str(point.get("description", "")))
    try:
        predicted = None if note is None else np.array([float(note[axis]) for axis in "RAS"])
    except ValueError:
        predicted = None
    if note is None or predicted is None or position is None or np.abs(predicted - position).max() > _MOVED_MM:
        of.touched += 1
    else:
        of.untouched.append(note["status"])


def _put(of: _Marks, name: str, position: Floats | None, where: str) -> None:
    if position is None:
        of.unplaced += 1
    elif name in of.points:
        raise AnnotationError(f"{where}: the point {name.replace('_', ' ')} occurs twice for one vertebra")
    else:
        of.points[name] = position


def _frame(markup: dict[str, Any], where: str) -> Floats:
    """What turns the file's coordinates into RAS mm, (3, 3); the schema's defaults are LPS and mm."""
    system, units = markup.get("coordinateSystem", "LPS"), markup.get("coordinateUnits", "mm")
    ras_from = _RAS_FROM.get(str(system))
    if ras_from is None:
        raise AnnotationError(f"{where}: unknown coordinateSystem {system!r}, expected LPS or RAS")
    scale = _MM_PER_UNIT.get(str(units[0] if isinstance(units, list) and units else units))
    if scale is None:
        raise AnnotationError(f"{where}: unknown coordinateUnits {units!r}, expected mm or um")
    return ras_from * scale


def _position(point: dict[str, Any], ras_mm_from_file: Floats, where: str) -> Floats | None:
    """The place of a control point (3,), world RAS mm; None for one that was not placed yet."""
    if point.get("positionStatus", "defined") != "defined":
        return None
    try:
        position = np.array(point.get("position"), dtype=np.float64)
    except (TypeError, ValueError):
        position = np.array([])
    if position.shape != (3,) or not np.isfinite(position).all():
        raise AnnotationError(
            f"{where}: point {point.get('label')!r} has the position {point.get('position')}, "
            "expected three finite numbers"
        )
    return np.asarray(ras_mm_from_file @ position)


def _label(text: str) -> _Label | None:
    match = _LABEL.fullmatch(text.strip())
    if match is None:
        return None
    name, part, end = match["vertebra"], match["part"], match["end"]
    level = parse_level(name)
    number = re.fullmatch(r"[vV]?0*(\d+)", name)
    if level is None and number is None:
        return None
    vertebra = level or (number[1] if number else "")
    return _Label(vertebra, _PARTS[part[0].lower()] if part else "", _ENDS[end[0].lower()] if end else "")


def _ruler_label(markup: dict[str, Any], points: list[dict[str, Any]], path: Path) -> _Label | None:
    """What a ruler is called: by its own name, else by its points' labels without their numbers, else by the file."""
    of_points = [_label(re.sub(r"-\d$", "", str(point.get("label", "")))) for point in points]
    names = {(label.vertebra, label.part) if label else None for label in of_points}
    of_points = of_points[:1] if len(names) == 1 else []
    labels = (_label(str(markup.get("name", ""))), *of_points, _label(path.name.removesuffix(ENDING)))
    return next((label for label in labels if label is not None), None)


def _keypoints(found: _Marks, where: str) -> Floats:
    """The six keypoints of one vertebra, (6, 3), world RAS mm."""
    if found.unplaced:
        raise AnnotationError(f"{where} has {found.unplaced} points or rulers that were not placed, expected all")
    if found.points and (found.rulers or found.unnamed_rulers):
        raise AnnotationError(f"{where} is given by points and by rulers, expected one of them")
    if found.points:
        missing = [name.replace("_", " ") for name in KEYPOINTS if name not in found.points]
        if missing:
            raise AnnotationError(f"{where} has {len(found.points)} points, expected 6 (missing: {', '.join(missing)})")
        return np.stack([found.points[name] for name in KEYPOINTS])
    count = len(found.rulers) + len(found.unnamed_rulers)
    if count != 3:
        raise AnnotationError(f"{where} has {count} rulers, expected 3 (anterior, middle, posterior)")
    if found.unnamed_rulers and found.rulers:
        raise AnnotationError(
            f"{where}: only some of its rulers say anterior, middle or posterior, expected all or none"
        )
    if found.unnamed_rulers:
        rulers = sorted(found.unnamed_rulers, key=lambda pair: -float(pair[:, 1].mean()))
    else:
        rulers = [found.rulers[part] for part in HEIGHTS]
    return superior_first(np.stack(rulers)).reshape(6, 3)


def superior_first(rulers: Floats) -> Floats:
    """Rulers of one vertebra, (3, 2, 3) world RAS mm, each with its superior end first.

    The higher end is the superior one; a ruler that lies nearly flat follows the other two.
    """
    ordered = np.where(rulers[:, :1, 2:] >= rulers[:, 1:, 2:], rulers, rulers[:, ::-1])
    upward = ordered[:, 0] - ordered[:, 1]
    against = upward @ upward.sum(axis=0) < 0
    return np.where(against[:, None, None], ordered[:, ::-1], ordered)
