"""Tables of fracture grades: one row per vertebra, or as published with VerSe'19 one row per scan.

By vertebra: a column each for scan (``scan_id``, ``case``, ``verse_ID``), vertebra (``vertebra``, ``level``, ``label``:
T12, Th12 or 19) and grade (``genant_grade``, ``grade``). By scan: ``verse_ID`` and a column ``T12_fx-g`` per vertebra.
Optional is the patient: ``patient_id`` or ``subject_ID``. Scans are known by their number: 15, verse15, sub-verse015.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from vertfrac.cohorts.levels import LEVEL_OF, parse_level
from vertfrac.cohorts.verse.files import identity
from vertfrac.errors import TableError
from vertfrac.genant import GRADES

SCAN_COLUMNS = ("scan_id", "case", "verse_id")
PATIENT_COLUMNS = ("patient_id", "patient", "subject_id")
VERTEBRA_COLUMNS = ("vertebra", "level", "label")
GRADE_COLUMNS = ("genant_grade", "grade")
_WIDE = re.compile(r"((?:c|th?|l)\d+)_fx-g", re.IGNORECASE)


@dataclass
class GradesOfScan:
    """What a table says of one scan: level -> grade, the patient ("" if not given), and what is wrong with its rows."""

    patient: str = ""
    grades: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def read_grades(path: Path) -> dict[str, GradesOfScan]:
    """The grades of every scan of a CSV table, by ``identity`` or, where the name has none, by the name itself.

    A row that cannot be used is a fault of its scan. Raises TableError for a table that cannot be read, or whose
    columns are not those of either form.
    """
    table = _read(path)
    names = {name.strip().lower(): name for name in table.columns}
    wide = {match[1]: name for name in table.columns if (match := _WIDE.fullmatch(name.strip()))}
    scan, patient, vertebra, grade = (
        next((names[name] for name in known if name in names), None)
        for known in (SCAN_COLUMNS, PATIENT_COLUMNS, VERTEBRA_COLUMNS, GRADE_COLUMNS)
    )
    if scan is None or not (wide or (vertebra and grade)):
        raise TableError(
            f"{path}: found the columns {', '.join(map(str, table.columns[:8]))}, expected scan_id, vertebra and "
            "genant_grade, or verse_ID and T12_fx-g and the like"
        )
    found: dict[str, GradesOfScan] = {}
    for line, row in enumerate(table.to_dict("records"), start=2):
        cells = {str(name): str(value).strip() for name, value in row.items()}
        if not cells[scan]:
            if any(cells.values()):
                raise TableError(f"{path}: line {line} has no {scan}, expected the number of a scan")
            continue
        mine = found.setdefault(identity(cells[scan]) or cells[scan], GradesOfScan())
        mine.patient = mine.patient or (identity(cells[patient]) or cells[patient] if patient else "")
        for level, value in _pairs(cells, wide, vertebra, grade):
            _enter(mine, level, value, f"{path}: line {line}")
    return found


def _read(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            first = stream.readline()
        separator = ";" if first.count(";") > first.count(",") else ","
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}), expected a CSV table of grades") from error
    except (ValueError, UnicodeError) as error:
        raise TableError(f"{path}: not a CSV table ({str(error).splitlines()[0]}), expected one of grades") from error


def _pairs(
    cells: dict[str, str], wide: dict[str, str], vertebra: str | None, grade: str | None
) -> Iterator[tuple[str, str]]:
    """Vertebra and grade as written; in a row of a whole scan an empty cell is a vertebra that was not graded."""
    if vertebra and grade:
        yield cells[vertebra], cells[grade]
    else:
        yield from ((level, cells[name]) for level, name in wide.items() if cells[name])


def _enter(mine: GradesOfScan, vertebra: str, value: str, where: str) -> None:
    level = level_of(vertebra)
    number = re.fullmatch(r"0*(\d)(?:\.0*)?", value)
    if level is None:
        mine.faults.append(f"{where}: vertebra is {vertebra!r}, expected a level such as T12 or a label such as 19")
    elif number is None or int(number[1]) >= len(GRADES):
        mine.faults.append(f"{where}: grade of {level} is {value!r}, expected 0, 1, 2 or 3")
    elif level in mine.grades:
        mine.faults.append(f"{where}: a second grade of {level}, expected one")
    else:
        mine.grades[level] = int(number[1])


def level_of(text: str) -> str | None:
    """The level in the names of ANNOTATIONS: Th7 and T07 are T7, 19 is T12; None if it is none."""
    return LEVEL_OF.get(int(text)) if re.fullmatch(r"\d{1,3}", text) else parse_level(text)


def in_words(levels: Sequence[str], grades: dict[str, int]) -> str:
    """``T12 (2), L1 (0)``."""
    return ", ".join(f"{level} ({grades[level]})" for level in levels)
