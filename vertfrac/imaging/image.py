"""A CT scan as a frozen value, the one door through which scans come in, and writing one as NIfTI."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertfrac.errors import GeometryError, ImageError
from vertfrac.files import replacing
from vertfrac.geometry.grid import Grid
from vertfrac.imaging.dicom import Stack, read_dicom, read_dicom_files
from vertfrac.imaging.nifti import read_nifti
from vertfrac.imaging.voxels import fits_int16

AIR_HU = -1024
_NIFTI_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_NARROWEST_CT_HU = 200
_PLAUSIBLE_SPACING_MM = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class Image:
    """A CT scan.

    hu : (i, j, k) Hounsfield units; int16 where all values are integers that fit, else float32. Padding below
        -1024 is kept as stored.
    grid : ties the indices of ``hu`` to world RAS+ mm.
    source : the file or folder it was read from, or the name of what made it.
    warnings : what a reader had to assume or mend, one sentence each.
    stored_axes : where the array axes pointed to in the file, such as "LPS"; "" where it was never a file.
    files : of a DICOM series the files of its slices, upwards along their normal; else empty.

    Raises ImageError if ``hu`` does not have the shape of ``grid``.
    """

    hu: NDArray[Any]
    grid: Grid
    source: str
    warnings: tuple[str, ...] = ()
    stored_axes: str = ""
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ImageError(f"{self.source}: values have shape {self.hu.shape}, expected {self.grid.shape}")

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between neighbouring voxel centres along each index axis, (3,), mm."""
        return self.grid.spacing_mm


def read_image(path: Path | str) -> Image:
    """Read a NIfTI file (.nii, .nii.gz) or a folder with one DICOM CT series.

    Returns an image whose index axes run closest to R, A and S; voxels are permuted and flipped, never resampled.
    Raises ImageError, with a message of one line, for anything that is not one 3D CT scan in a known place.
    """
    path = Path(path)
    if path.is_dir():
        values, stack, found = read_dicom(path)
        return image_of(values, stack.world_from_index, found, str(path), stack.files)
    if _NIFTI_ENDING.search(path.name):
        return image_of(*read_nifti(path), str(path))
    raise ImageError(f"{path}: {_why_neither(path)}")


def read_series(files: Sequence[Path], where: Path) -> tuple[Image, Stack]:
    """Read one DICOM CT series from exactly these files, in any order; ``where`` is its source, for messages too.

    Returns the image as `read_image` does, and where the slices lie, which the order of the image's axes no longer
    tells. Raises ImageError, with a message of one line, for anything but the slices of one 3D CT scan.
    """
    values, stack, found = read_dicom_files(files, where)
    return image_of(values, stack.world_from_index, found, str(where), stack.files), stack


def image_of(
    values: NDArray[Any],
    world_from_index: NDArray[np.float64],
    found: Sequence[str],
    source: str,
    files: tuple[Path, ...] = (),
) -> Image:
    """The canonical image of values (i, j, k) and the (4, 4) affine from their index to world RAS+ mm.

    values : int16, or float32 where they do not fit (``gathered``); the image takes them over, and mends them in place.
    found : warnings of the reader. files : those of a DICOM series. Raises ImageError, naming the source, for values
    that cannot be Hounsfield units and for an affine that cannot be one.
    """
    hu, span, mended = _as_hounsfield(values, source)
    try:
        grid = Grid(hu.shape, world_from_index)
    except GeometryError as error:
        raise ImageError(f"{source}: {error}") from error
    doubts = (*found, *mended, *_doubts(span, grid))
    return canonical(Image(hu, grid, source, doubts, files=files))


def canonical(image: Image) -> Image:
    """The same voxels at the same world points with index axes closest to R, A, S; nothing is resampled."""
    import nibabel

    orientations: Any = nibabel.orientations  # has no types
    world_from_index = image.grid.world_from_index
    ornt = orientations.io_orientation(world_from_index)
    hu = orientations.apply_orientation(image.hu, ornt)
    if any(stride < 0 for stride in hu.strides):
        hu = hu.copy(order="K")  # torch.from_numpy takes no negative strides
    return replace(
        image,
        hu=hu,
        grid=Grid(hu.shape, world_from_index @ orientations.inv_ornt_aff(ornt, image.hu.shape)),
        stored_axes=image.stored_axes or "".join(orientations.ornt2axcodes(ornt)),
    )


def write_nifti(path: Path | str, image: Image) -> None:
    """Write .nii or .nii.gz (by name) atomically, values in their own type, sform and qform of code 1, in mm.

    A qform cannot hold shear; readers take the sform, which is exact to float32.
    Raises ImageError for another ending.
    """
    import nibabel

    if not _NIFTI_ENDING.search(Path(path).name):
        raise ImageError(f"{path}: cannot be written, expected a name that ends in .nii or .nii.gz")
    image_type: Any = nibabel.Nifti1Image  # has no types
    nifti = image_type(image.hu, image.grid.world_from_index, dtype=image.hu.dtype)
    nifti.set_sform(image.grid.world_from_index, code=1)
    nifti.set_qform(image.grid.world_from_index, code=1)
    nifti.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nibabel.save(nifti, temporary)


def is_nifti(path: Path | str) -> bool:
    """Whether a path is named like a NIfTI file."""
    return _NIFTI_ENDING.search(Path(path).name) is not None


def case_name(path: Path | str) -> str:
    """Name of a scan, safe as a file name: without .nii or .nii.gz, other than A-Z a-z 0-9 . _ - become '_'."""
    name = os.path.basename(os.path.abspath(path))
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", _NIFTI_ENDING.sub("", name))
    return safe if safe.strip(".") else f"_{safe}"  # "." and ".." are folders, never names


def _why_neither(path: Path) -> str:
    expected = "expected a .nii or .nii.gz file or a folder with a DICOM series"
    if not path.exists():
        return f"no such file or folder, {expected}"
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError as error:
        return f"cannot be read ({error.strerror}), {expected}"
    if start[128:] == b"DICM" or path.suffix.lower() == ".dcm":
        return f"a single DICOM file, expected the folder that holds all slices of its series ({path.parent})"
    return f"neither NIfTI by name nor a folder, {expected}"


def _as_hounsfield(values: NDArray[Any], source: str) -> tuple[NDArray[Any], tuple[float, float], list[str]]:
    """Values of ``gathered`` with NaN and infinity replaced by air, in place; the lowest and the highest; warnings."""
    if values.dtype.kind != "f":
        broken, lowest, highest = 0, float(values.min()), float(values.max())
    else:
        broken, lowest, highest = _mended(values)
    if broken == values.size:
        raise ImageError(f"{source}: all {values.size} voxels are NaN or infinite, expected Hounsfield units")
    if lowest == highest:
        raise ImageError(f"{source}: all voxels equal {lowest:g}, expected a CT scan")
    if not broken:
        return values, (lowest, highest), []
    if all(fits_int16(part) for part in _parts(values)):
        values = values.astype(np.int16)
    warning = f"{broken} of {values.size} voxels were NaN or infinite, replaced by {AIR_HU} HU"
    return values, (min(lowest, AIR_HU), max(highest, AIR_HU)), [warning]


def _mended(values: NDArray[Any]) -> tuple[int, float, float]:
    """Replace NaN and infinity by air, in place; returns their number, and the range of the other values."""
    broken, lowest, highest = 0, np.inf, -np.inf
    for part in _parts(values):
        finite = np.isfinite(part)
        lowest = min(lowest, float(part.min(where=finite, initial=np.inf)))
        highest = max(highest, float(part.max(where=finite, initial=-np.inf)))
        unknown = part.size - int(np.count_nonzero(finite))
        if unknown:
            part[~finite] = AIR_HU
            broken += unknown
    return broken, lowest, highest


def _parts(values: NDArray[Any]) -> NDArray[Any]:
    """An array as thin parts of it that lie together in memory, for steps that need more memory than they read."""
    return np.moveaxis(values, int(np.argmax(np.abs(values.strides))), 0)


def _doubts(span: tuple[float, float], grid: Grid) -> list[str]:
    """What is readable but unlike a CT scan in Hounsfield units and millimetres."""
    doubts = []
    lowest, highest = span
    if highest - lowest < _NARROWEST_CT_HU:
        doubts.append(f"values span only {lowest:g} to {highest:g}, narrower than any CT in HU")
    elif lowest >= 0:
        doubts.append(f"no value is below 0 (range {lowest:g} to {highest:g}): perhaps not in HU")
    spacing = grid.spacing_mm
    if spacing.min() < _PLAUSIBLE_SPACING_MM[0] or spacing.max() > _PLAUSIBLE_SPACING_MM[1]:
        doubts.append(f"voxel spacing {' x '.join(f'{s:g}' for s in spacing)} mm is unusual for CT")
    return doubts
