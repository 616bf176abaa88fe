"""One DICOM CT series, in a folder or as a list of files, to an array and its affine in RAS+ mm.

Slices are placed by ImagePositionPatient alone: file names and InstanceNumber carry no geometry. Headers are read
first, so that most faults are found before any pixel is decoded (``decoding``).
"""

from __future__ import annotations

import warnings as python_warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vertfrac.errors import ImageError
from vertfrac.imaging.decoding import Decoder
from vertfrac.imaging.messages import one_line
from vertfrac.imaging.voxels import fits_int16

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_HEADER_TAGS = [
    "SOPClassUID",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "InstanceNumber",
]
_GREY = ("MONOCHROME2", "MONOCHROME1")
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_GAP_TOLERANCE_MM = 0.101  # positions rounded to 0.1 mm are common
_PLACE_TOLERANCE_MM = 0.5  # of a slice from where the regular grid has it, along or across the normal
_SAME_TOLERANCE = 1e-4  # of spacing (mm) and of direction cosines between slices
_AXES_TOLERANCE = 1e-3
_LARGEST_HU = 1e5  # 16 bits hold a third of it; beyond it the rescale slope or intercept is wrong


@dataclass(frozen=True, eq=False)
class _Slice:
    file: Path
    header: Dataset

    @property
    def position(self) -> NDArray[np.float64]:
        return _floats(self, "ImagePositionPatient")


@dataclass(frozen=True, eq=False)
class Stack:
    """Where the slices of a series lie.

    files, instance_numbers : of each slice in the order of the array, upwards along the normal of the slices; the
        InstanceNumber is None where it is missing or no integer. rows, columns : the size of a slice.
    world_from_index : (4, 4), maps a homogeneous (column, row, slice) of the array to world RAS mm.
    """

    files: tuple[Path, ...]
    instance_numbers: tuple[int | None, ...]
    rows: int
    columns: int
    world_from_index: NDArray[np.float64]

    def world_from_ranked(self) -> NDArray[np.float64]:
        """World RAS mm from (row, column, rank), where rank counts the slices by InstanceNumber from 0; (4, 4).

        Raises ImageError unless all slices have an InstanceNumber, each another one, that runs along the position.
        """
        numbers: list[int] = []
        for file, number in zip(self.files, self.instance_numbers, strict=True):
            if number is None:
                raise ImageError(f"{file}: InstanceNumber is missing or no integer, expected the slice's number")
            numbers.append(number)
        twice = [number for number, count in Counter(numbers).items() if count > 1]
        if twice:
            one, other = [file for file, number in zip(self.files, numbers, strict=True) if number == twice[0]][:2]
            raise ImageError(f"{other}: InstanceNumber is {twice[0]}, that of {one.name} too, expected each once")
        steps = np.sign(np.diff(numbers))
        odd = np.flatnonzero(steps != np.sign(numbers[-1] - numbers[0]))
        if len(odd):
            low, high = odd[0], odd[0] + 1
            raise ImageError(
                f"{self.files[high]}: InstanceNumber {numbers[high]} lies next to {numbers[low]} of "
                f"{self.files[low].name}, against the direction of the series, expected numbers that run with the "
                "position"
            )
        index_from_ranked = np.zeros((4, 4))
        index_from_ranked[0, 1] = index_from_ranked[1, 0] = index_from_ranked[2, 2] = index_from_ranked[3, 3] = 1
        if steps[0] < 0:
            index_from_ranked[2, 2], index_from_ranked[2, 3] = -1, len(numbers) - 1
        return self.world_from_index @ index_from_ranked


def read_dicom(folder: Path) -> tuple[NDArray[Any], Stack, list[str]]:
    """Read the CT series with the most slices in a folder and all folders below it.

    Returns the values (column, row, slice), int16 where all are integers that fit, else float32, with each slice's
    slope and intercept applied, where the slices lie, and warnings.
    Raises ImageError, with a message of one line, if the slices are not one regular, upright, complete volume.
    """
    with quiet_pydicom():
        slices, warnings = _chosen_series(folder)
        values, stack, more = _read_slices(folder, slices)
        return values, stack, warnings + more


def read_dicom_files(files: Sequence[Path], where: Path) -> tuple[NDArray[Any], Stack, list[str]]:
    """Read one CT series from exactly these files, in any order; ``where`` names it in messages.

    Returns the values as `read_dicom` does, where the slices lie, and warnings.
    Raises ImageError as `read_dicom` does, and for a file that is no slice of the same series.
    """
    with quiet_pydicom():
        return _read_slices(where, _series_of(files, where))


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """pydicom warns of each malformed value of each file; what matters here is checked, and raised."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        yield


def _read_slices(where: Path, slices: list[_Slice]) -> tuple[NDArray[Any], Stack, list[str]]:
    _check_attributes(where, slices)
    slices, world_from_index = _placed(where, slices)
    warnings = []
    if any(one.header.get("RescaleSlope") in (None, "") for one in slices):
        warnings.append("some slices have no RescaleSlope; their stored values were taken as HU")
    first = slices[0].header
    stack = Stack(
        tuple(one.file for one in slices),
        tuple(_instance_number(one) for one in slices),
        int(first.Rows),
        int(first.Columns),
        world_from_index,
    )
    return _read_pixels(where, slices, world_from_index), stack, warnings


def _series_of(files: Sequence[Path], where: Path) -> list[_Slice]:
    """The slices in the files, all of one CT series."""
    slices: list[_Slice] = []
    for file, header in _headers(files):
        if header is None:
            raise ImageError(f"{file}: not readable as DICOM, expected a slice of the CT series")
        what = _other_than_slice(header)
        if what:
            raise ImageError(f"{file}: no CT slice but {what}, expected a series of CT Image Storage alone")
        slices.append(_Slice(file, header))
    if not slices:
        raise ImageError(f"{where}: no DICOM file, expected a CT series")
    for one in slices[1:]:
        here, there = (str(s.header.get("SeriesInstanceUID", "")) for s in (one, slices[0]))
        if here != there:
            raise ImageError(f"{one.file}: series {here}, expected {there} as in {slices[0].file.name}")
    return slices


def _other_than_slice(header: Dataset) -> str:
    """What a DICOM file holds if it is no axial CT image, else nothing."""
    from pydicom.uid import CTImageStorage

    if header.get("SOPClassUID") != CTImageStorage:
        return str(getattr(header.get("SOPClassUID"), "name", "no SOP class"))
    return "CT localizer" if "LOCALIZER" in (header.get("ImageType") or ()) else ""


def _instance_number(one: _Slice) -> int | None:
    number = _floats(one, "InstanceNumber")
    return int(number) if number.shape == () and np.isfinite(number) and number == np.rint(number) else None


def _chosen_series(folder: Path) -> tuple[list[_Slice], list[str]]:
    warnings: list[str] = []
    series: dict[str, list[_Slice]] = defaultdict(list)
    others: Counter[str] = Counter()
    unreadable: list[Path] = []
    for file, header in _headers(file for file in sorted(folder.rglob("*")) if file.is_file()):
        if header is None:
            unreadable.append(file)
        elif what := _other_than_slice(header):
            others[what] += 1
        else:
            series[str(header.get("SeriesInstanceUID", ""))].append(_Slice(file, header))
    damaged = [file for file in unreadable if file.suffix.lower() == ".dcm"]
    if not series:
        if damaged:
            others["unreadable .dcm file"] = len(damaged)
        found = ", ".join(f"{count} x {name}" for name, count in sorted(others.items()))
        if found:
            raise ImageError(f"{folder}: no CT slices, found {found}, expected a series of CT Image Storage")
        raise ImageError(f"{folder}: no DICOM file in this folder or below, expected a CT series")
    if damaged:
        warnings.append(f"{len(damaged)} .dcm files are not readable as DICOM and were left out, first {damaged[0]}")
    if others["CT localizer"]:
        warnings.append(f"{others['CT localizer']} localizer images left out")

    uids = sorted(series, key=lambda uid: (-len(series[uid]), uid))
    if len(uids) > 1:
        rest = "; ".join(_series_label(series[uid]) for uid in uids[1:])
        warnings.append(f"{len(uids)} CT series, read {_series_label(series[uids[0]])}; left out: {rest}")
    return series[uids[0]], warnings


def _headers(files: Iterable[Path]) -> Iterator[tuple[Path, Dataset | None]]:
    """The headers of files, with None for one that is not DICOM."""
    import pydicom

    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
            header.decode()  # turns bytes into values now, where a damaged one can be caught
        except OSError as error:
            raise ImageError(f"{file}: cannot be read ({error.strerror}), expected a DICOM file") from error
        except Exception:  # not DICOM, or a damaged header, which makes pydicom raise almost anything
            yield file, None
        else:
            yield file, header


def _series_label(slices: list[_Slice]) -> str:
    """Number and size alone: a description is free text, where names of patients occur, and a UID names the study."""
    number = slices[0].header.get("SeriesNumber")
    return f"{'without number' if number is None else f'number {number}'} ({len(slices)} slices)"


def _check_attributes(folder: Path, slices: list[_Slice]) -> None:
    """Every slice says where it lies, and all have the same size, spacing and orientation."""
    if len(slices) < 2:
        raise ImageError(f"{folder}: the CT series has {len(slices)} slice, expected at least 2")
    for one in slices:
        for name, length in _GEOMETRY.items():
            numbers = _floats(one, name)
            if numbers.shape != (length,) or not np.isfinite(numbers).all():
                found = one.header.get(name) or "missing"
                raise ImageError(f"{one.file}: {name} is {found}, expected {length} numbers")
        axes = _floats(one, "ImageOrientationPatient").reshape(2, 3)
        if np.abs(axes @ axes.T - np.eye(2)).max() > _AXES_TOLERANCE:
            raise ImageError(
                f"{one.file}: ImageOrientationPatient is {one.header.ImageOrientationPatient}, "
                "expected two perpendicular unit vectors"
            )
        if min(one.header.PixelSpacing) <= 0:
            raise ImageError(f"{one.file}: PixelSpacing is {list(one.header.PixelSpacing)}, expected positive numbers")
        for name in ("Rows", "Columns"):
            if _floats(one, name).shape != () or one.header[name].value < 1:
                raise ImageError(f"{one.file}: {name} is missing or 0, expected the size of the slice")
        if one.header.get("SamplesPerPixel", 1) != 1:
            raise ImageError(f"{one.file}: {one.header.SamplesPerPixel} values a pixel, expected 1")
        colours = one.header.get("PhotometricInterpretation") or _GREY[0]
        if colours not in _GREY:  # gdcm ends the process on some that do not fit the pixels
            raise ImageError(f"{one.file}: PhotometricInterpretation is {colours}, expected {' or '.join(_GREY)}")

    first = slices[0]
    for one in slices[1:]:
        for name, tolerance in (
            ("Rows", 0.0),
            ("Columns", 0.0),
            ("PixelSpacing", _SAME_TOLERANCE),
            ("ImageOrientationPatient", _SAME_TOLERANCE),
        ):
            if np.abs(_floats(one, name) - _floats(first, name)).max() > tolerance:
                here, there = one.header[name].value, first.header[name].value
                raise ImageError(f"{one.file}: {name} is {here}, expected {there} as in {first.file.name}")
        if one.header.get("FrameOfReferenceUID") != first.header.get("FrameOfReferenceUID"):
            raise ImageError(f"{one.file}: another FrameOfReferenceUID than {first.file.name}, expected one for all")


def _placed(folder: Path, slices: list[_Slice]) -> tuple[list[_Slice], NDArray[np.float64]]:
    """The slices sorted along their normal, and the affine of (column, row, slice)."""
    from highdicom import spatial

    convention: Any = {"index_convention": "RD", "handedness": "RIGHT_HANDED"}
    first = slices[0].header
    try:
        normal = spatial.get_normal_vector(first.ImageOrientationPatient, **convention)
        slices = sorted(slices, key=lambda one: float(one.position @ normal))
        _check_volume(folder, slices, normal)
        spacing, order = spatial.get_series_volume_positions(
            [one.header for one in slices],
            atol=2 * _GAP_TOLERANCE_MM,  # highdicom measures from the mean gap, _check_volume from the median
            orientation_tol=_SAME_TOLERANCE,
            perpendicular_tol=1.0,  # a cosine, blind to drift over many slices; _check_volume measures mm
            **convention,
        )
        if spacing is None or order != list(range(len(slices))):
            raise ImageError(f"{folder}: the slices do not form a regular volume, expected evenly spaced parallel ones")
        lps_from_index = spatial.create_affine_matrix_from_attributes(
            image_position=slices[0].header.ImagePositionPatient,
            image_orientation=first.ImageOrientationPatient,
            pixel_spacing=first.PixelSpacing,
            spacing_between_slices=spacing,
            **convention,
        )
    except (ValueError, TypeError) as error:
        raise ImageError(f"{folder}: impossible slice geometry ({one_line(error)})") from error
    return slices, spatial.convert_affine_to_convention(lps_from_index, "LPS", "RAS")


def _check_volume(folder: Path, slices: list[_Slice], normal: NDArray[np.float64]) -> None:
    """Name what keeps sorted slices from being a volume, and where.

    highdicom answers the same question with a bare no, and lets 2.5 degrees of tilt pass, which over the length
    of a spine is 20 mm.
    """
    positions = np.stack([one.position for one in slices])
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))

    across = positions - positions[0] - np.outer(along - along[0], normal)
    drift = np.linalg.norm(across, axis=1)
    twins = np.flatnonzero(gaps < 1e-3)
    if len(twins):
        low, high = slices[twins[0]], slices[twins[0] + 1]
        raise ImageError(
            f"{folder}: duplicate positions, {low.file.name} and {high.file.name} both lie at "
            f"{_point(low)} (LPS mm; {len(twins)} such pairs), expected each position once"
        )
    if drift[-1] > _PLACE_TOLERANCE_MM:
        degrees = float(np.degrees(np.arctan2(drift[-1], along[-1] - along[0])))
        raise ImageError(
            f"{folder}: gantry tilt of {degrees:.1f} degrees, slices shift {drift[-1]:.1f} mm sideways over the "
            "series, expected them stacked along their normal"
        )
    if drift.max() > _PLACE_TOLERANCE_MM:
        worst = int(drift.argmax())
        raise ImageError(
            f"{folder}: {slices[worst].file.name} at {_point(slices[worst])} (LPS mm) lies {drift[worst]:.1f} mm "
            "beside the stack, expected all slices along their normal"
        )
    odd = np.flatnonzero(np.abs(gaps - usual) > _GAP_TOLERANCE_MM)
    if len(odd):
        worst = int(odd[np.abs(gaps[odd] - usual).argmax()])
        low, high = slices[worst], slices[worst + 1]
        what = "missing slice" if gaps[worst] > 1.5 * usual else "irregular slice spacing"
        raise ImageError(
            f"{folder}: {what}, gap of {gaps[worst]:.2f} mm between {low.file.name} at {_point(low)} and "
            f"{high.file.name} at {_point(high)} (LPS mm; {len(odd)} such gaps), expected {usual:.2f} mm"
        )
    offset = np.abs(along - np.linspace(along[0], along[-1], len(along)))
    if offset.max() > _PLACE_TOLERANCE_MM:
        worst = int(offset.argmax())
        raise ImageError(
            f"{folder}: irregular slice spacing, {slices[worst].file.name} at {_point(slices[worst])} (LPS mm) lies "
            f"{offset.max():.2f} mm from its place, expected evenly spaced slices"
        )


def _read_pixels(where: Path, slices: list[_Slice], world_from_index: NDArray[np.float64]) -> NDArray[Any]:
    """The values (column, row, slice) in HU: int16 until a slice does not fit, from then on float32.

    They lie in memory along R, A and S, so that who turns the axes that way needs no copy.
    """
    rows, columns = int(slices[0].header.Rows), int(slices[0].header.Columns)
    backwards = [axis[np.abs(axis).argmax()] < 0 for axis in world_from_index[:3, :3].T[::-1]]
    view = tuple(slice(None, None, -1) if back else slice(None) for back in backwards)  # of (slice, row, column)
    values: NDArray[Any] = np.empty((len(slices), rows, columns), dtype=np.int16)[view]
    lowest, highest = np.inf, -np.inf
    with Decoder() as decoder:
        for index, one in enumerate(slices):
            hu = _hu(one, (rows, columns), decoder)
            low, high = float(hu.min()), float(hu.max())
            if low < -_LARGEST_HU or high > _LARGEST_HU:
                raise ImageError(
                    f"{one.file}: values from {low:g} to {high:g} after RescaleSlope and RescaleIntercept, "
                    f"expected Hounsfield units"
                )
            lowest, highest = min(lowest, low), max(highest, high)
            if values.dtype == np.int16 and not fits_int16(hu):
                values = values.astype(np.float32)
            values[index] = hu
    if highest < 0 and lowest < highest:
        raise ImageError(f"{where}: values from {lowest:g} to {highest:g}, all below water, expected Hounsfield units")
    return values.transpose(2, 1, 0)


def _hu(one: _Slice, shape: tuple[int, int], decoder: Decoder) -> NDArray[Any]:
    """The values of a slice with slope and intercept."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    try:
        dataset = pydicom.dcmread(one.file)
        stored = decoder.stored(one.file, dataset)
        if stored.shape != shape:
            raise ImageError(f"{one.file}: pixels of shape {stored.shape}, expected {shape}")
        return apply_modality_lut(stored, dataset)
    except ImageError:
        raise
    except Exception as error:  # pydicom and its decoders raise almost anything on damaged or unknown data
        raise ImageError(
            f"{one.file}: pixel data truncated, damaged or in a transfer syntax that cannot be decoded "
            f"({one_line(error)})"
        ) from error


def _floats(one: _Slice, name: str) -> NDArray[np.float64]:
    """The numbers of an attribute; empty if it is missing or not numbers."""
    value = one.header.get(name)
    try:
        return np.array([] if value is None else value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([])


def _point(one: _Slice) -> str:
    return "(" + ", ".join(f"{x:.2f}" for x in one.position) + ")"
