"""Six keypoints per vertebra from a vertebra mask: `measure_mask`.

`field` makes a smooth field of a mask, `canal` finds the canal and the body, `body` puts the keypoints, `levels` knows
the numbering of VerSe, `measure` puts all together; `command` reads and writes files.
"""

from vertfrac.cohorts.from_mask.measure import MaskVertebra, measure_mask

__all__ = ["MaskVertebra", "measure_mask"]
