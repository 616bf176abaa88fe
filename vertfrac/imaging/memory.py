"""A scan that is already in memory, an array or a nibabel image, as the image that its file would give."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vertfrac.errors import ImageError
from vertfrac.imaging.image import Image, image_of
from vertfrac.imaging.messages import one_line
from vertfrac.imaging.nifti import unpack_nifti
from vertfrac.imaging.voxels import gathered


def image_from_array(hu: ArrayLike, world_from_index: ArrayLike, source: str = "array") -> Image:
    """The canonical image of Hounsfield units (i, j, k), of any real type, and the (4, 4) affine to world RAS+ mm.

    The values are copied; further axes of length 1 are dropped. Raises ImageError, naming the source, for anything but
    one 3D scan with at least two voxels an axis, values that cannot be Hounsfield units, or a singular affine.
    """
    values = _real(hu, source)
    if values.ndim < 3 or min(values.shape[:3]) < 2 or any(n != 1 for n in values.shape[3:]):
        raise ImageError(
            f"{source}: found an array of shape {values.shape}, expected three axes of at least 2 voxels each"
        )
    return image_of(_copied(values.reshape(values.shape[:3])), _affine(world_from_index, source), (), source)


def _real(values: ArrayLike, source: str) -> NDArray[Any]:
    expected = "expected real numbers, Hounsfield units"
    try:
        array: NDArray[Any] = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ImageError(f"{source}: cannot be taken as an array ({one_line(error)}), {expected}") from error
    if array.dtype.kind not in "iuf":
        raise ImageError(f"{source}: found values of type {array.dtype}, {expected}")
    return array


def _copied(values: NDArray[Any]) -> NDArray[Any]:
    """The array (i, j, k) as ``gathered`` types it, its axes in the same order in memory."""
    axes = np.argsort(np.abs(values.strides), kind="stable")
    i, j, k = (values.shape[axis] for axis in axes)
    copy = gathered(values.transpose(axes[2], axes[0], axes[1]), (i, j, k), (False,) * 3)
    return copy.transpose(np.argsort(axes))


def _affine(world_from_index: ArrayLike, source: str) -> NDArray[np.float64]:
    try:
        affine = np.array(world_from_index, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ImageError(f"{source}: the affine is not numeric, expected a (4, 4) array to world RAS mm") from error
    if affine.shape != (4, 4) or not np.allclose(affine[3], (0, 0, 0, 1)):
        found = f"shape {affine.shape}" if affine.shape != (4, 4) else f"the last row {affine[3].tolist()}"
        raise ImageError(f"{source}: found an affine of {found}, expected (4, 4) with the last row 0, 0, 0, 1")
    return affine


def image_from_nibabel(image: Any, source: str | None = None) -> Image:
    """The canonical image of a nibabel Nifti1Image or Nifti2Image, by the rules that its file would be read by.

    source : its name in messages; default: the file that it was loaded from, if any. Raises ImageError for an image
    of another kind and for what `read_image` would refuse.
    """
    import nibabel

    name = source or (image.get_filename() if hasattr(image, "get_filename") else None) or "nibabel image"
    kind: Any = nibabel.Nifti1Pair  # the base of all NIfTI images, has no types
    if not isinstance(image, kind):
        raise ImageError(f"{name}: found a {type(image).__name__}, expected a NIfTI image of nibabel")
    values, affine, found = unpack_nifti(image, str(name))
    return image_of(values, affine, found, str(name))
