"""The coded concepts of the DICOM report: standard codes where there are any, else the private scheme 99VERTFRAC.

``docs/exchange.md`` lists them. Standard ones are those of pydicom's dictionary, which is made from the standard:
vertebrae from CID 7602 and others (SNOMED CT), severities from CID 3716.
"""

from __future__ import annotations

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from vertfrac.genant import GRADES
from vertfrac.geometry.keypoints import HEIGHTS

SCHEME = "99VERTFRAC"
SCHEME_NAME = "vertfrac: vertebral heights and Genant grades"

HEIGHT_CODES: dict[str, Code] = {
    part: Code(f"HEIGHT_{part.upper()}", SCHEME, f"Vertebral body height, {part}") for part in HEIGHTS
}
GENANT_INDEX = Code("GENANT_INDEX", SCHEME, "Genant index: smallest / largest height")
GENANT_GRADE = Code("GENANT_GRADE", SCHEME, "Genant grade")
GRADE_CODES: tuple[Code, ...] = tuple(
    Code(f"GRADE_{number}", SCHEME, f"Genant grade {number} ({name})") for number, name in enumerate(GRADES)
)
GENANT_LEVEL = Code("GENANT_LEVEL", SCHEME, "Genant index by the normal shape of the level")
GRADE_LEVEL = Code("GRADE_LEVEL", SCHEME, "Genant grade by the normal shape of the level")
LEVEL_PROBABILITY = Code("LEVEL_PROB", SCHEME, "Probability of the level")
LEVEL_RUNNER_UP = Code("LEVEL_RUNNER_UP", SCHEME, "Level in doubt: may be")
SEVERITY = Code("246112005", "SCT", "Severity")
SEVERITIES: tuple[Code, ...] = (codes.SCT.Normal, codes.SCT.Mild, codes.SCT.Moderate, codes.SCT.Severe)
"""What grade 0 to 3 means, for readers that do not know the private scheme."""

STATUS = Code("STATUS", SCHEME, "Measurement status")
STATUS_CODES: dict[str, Code] = {
    "ok": Code("OK", SCHEME, "Measured"),
    "partial": Code("PARTIAL", SCHEME, "Not graded: reaches the edge of the scan"),
    "low_score": Code("LOW_SCORE", SCHEME, "Not graded: seen with too little certainty"),
    "sacrum": Code("SACRUM", SCHEME, "Not graded: named S1"),
    "not_measured": Code("NOT_MEASURED", SCHEME, "Not measured: keypoints make no vertebra"),
}
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
"""Where TID 1500 has what is said of the whole report."""


def vertebra(level: str | None) -> Code:
    """The vertebra of a level, C1 to L5, or the sacrum for S1.

    "Vertebra" for one that has no code (T13, L6) and where none is known.
    """
    if level == "S1":
        sacrum: Code = codes.SCT.Sacrum
        return sacrum
    found: Code = getattr(codes.SCT, f"{level}Vertebra", codes.SCT.Vertebra) if level else codes.SCT.Vertebra
    return found
