"""Voxels slice by slice into one array, so that no second copy of a scan, in a wider type, is ever in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INT16 = np.iinfo(np.int16)


def gathered(slices: Iterable[NDArray[Any]], shape: tuple[int, int, int], flipped: Sequence[bool]) -> NDArray[Any]:
    """The array (i, j, k) whose slices along k these are: int16 where all are integers that fit, else float32.

    slices : shape[2] arrays (i, j) of real numbers; each is copied before the next is asked for. What float32 cannot
    hold becomes infinite. flipped : whether each axis shall lie backwards in memory, so that who reverses it needs no
    copy.
    """
    backwards = tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)
    values: NDArray[Any] = np.empty(shape, dtype=np.int16, order="F")[backwards]
    for k, one in enumerate(slices):
        if one.dtype.kind == "f":
            with np.errstate(over="ignore"):
                one = one.astype(np.float32, copy=False)
        if values.dtype == np.int16 and not fits_int16(one):
            wider = np.empty(shape, dtype=np.float32, order="F")[backwards]
            wider[..., :k] = values[..., :k]
            values = wider
        values[..., k] = one
    return values


def fits_int16(values: NDArray[Any]) -> bool:
    """Whether all values are integers that int16 holds; NaN and infinity are not."""
    if np.can_cast(values.dtype, np.int16):
        return True
    if not (values.min() >= _INT16.min and values.max() <= _INT16.max):
        return False
    return values.dtype.kind != "f" or bool((values == np.rint(values)).all())
