"""One NIfTI file to an array and its affine in RAS+ mm, refusing what would have to be guessed."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import IOBase
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from vertfrac.errors import ImageError
from vertfrac.imaging.messages import one_line
from vertfrac.imaging.voxels import gathered

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI-1 codes for metre and micron; mm is 2, unknown is taken as mm
_UNIT_BITS = 0b111  # xyzt_units also holds the unit of time
_MOST_DEFLATE_SHRINKS = 1032
_AFFINE_TOLERANCE_MM = 0.1
_SPACING_TOLERANCE = 0.01


def read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """Read one single-file NIfTI-1 or NIfTI-2 image.

    Returns the 3D values (slope and intercept applied; int16 where all are integers that fit, else float32), the (4, 4)
    affine from index to world RAS+ mm, and warnings. The values lie in memory such that axes turned to R, A and S need
    no copy.
    Raises ImageError, with a message of one line, for a file that is damaged, not 3D, not real-valued, or without
    a usable spacing and orientation.
    """
    with _named(str(path)):
        size = path.stat().st_size
        if size == 0:
            raise ImageError(f"{path}: empty file (0 bytes), {_EXPECTED}")
        zipped = path.name.lower().endswith(".gz")
        with _open_gzip(path) if zipped else path.open("rb") as stream:
            return _read_stream(cast(IO[bytes], stream), path, size * (_MOST_DEFLATE_SHRINKS if zipped else 1))


def unpack_nifti(image: Any, source: str) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """What `read_nifti` returns of a file, of an image that nibabel has loaded or made: a Nifti1Image or Nifti2Image.

    The image stays as it is, its cache too. Raises ImageError as `read_nifti` does; what nibabel has mended while
    loading, such as a negative spacing, can no longer be seen.
    """
    with _named(source):
        shape, _ = _checked_layout(image.header, source)
        _check_placement(image.header, source)
        stored = image.dataobj.get_unscaled() if _is_proxy(image.dataobj) else np.asarray(image.dataobj)
        if stored.dtype.kind not in "iuf":
            raise ImageError(f"{source}: found values of type {stored.dtype}, expected real numbers, Hounsfield units")
        return _content(image, np.moveaxis(stored.reshape(shape), 2, 0), shape, source)


_EXPECTED = "expected a 3D NIfTI image"
_open_gzip: Any = igzip.open  # has no types
_DamagedGzip: Any = isal_zlib.error  # has a wrong one


@contextmanager
def _named(source: str) -> Iterator[None]:
    """What goes wrong while a source is read, as an ImageError of one line that names it."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"{source}: no such file, {_EXPECTED}") from error
    except gzip.BadGzipFile as error:
        raise ImageError(f"{source}: not gzip data or damaged ({one_line(error)}), {_EXPECTED}") from error
    except (EOFError, _DamagedGzip) as error:
        raise ImageError(f"{source}: truncated or damaged gzip data ({one_line(error)}), {_EXPECTED}") from error
    except (OSError, ValueError, MemoryError, HeaderDataError, ImageFileError) as error:
        raise ImageError(f"{source}: cannot be read ({one_line(error)}), {_EXPECTED}") from error


def _read_stream(stream: IO[bytes], path: Path, most_bytes: int) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """``most_bytes``: what the file can hold once unzipped."""
    import nibabel

    image_type = _image_type(stream, path)
    # unchecked first: nibabel mends some headers silently, such as negative spacing
    header: Any = image_type.header_class.from_fileobj(stream, check=False)
    shape, bytes_needed = _checked_layout(header, str(path))
    if bytes_needed > most_bytes:
        raise ImageError(f"{path}: truncated, at most {most_bytes} bytes, expected {bytes_needed} for shape {shape}")
    _check_placement(header, str(path))

    stream.seek(0)
    holder = nibabel.FileHolder(filename=str(path), fileobj=cast(IOBase, stream))
    image: Any = image_type.from_file_map({"image": holder}, mmap=False)
    content = _content(image, _slices(stream, image.dataobj), shape, str(path))
    while stream.read(1 << 20):  # gzip checks its checksum only at the end
        pass
    return content


def _content(
    image: Any, stored: Iterable[NDArray[Any]], shape: tuple[int, int, int], source: str
) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """stored : the slices along the last axis, before slope and intercept."""
    import nibabel

    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise ImageError(f"{source}: affine holds NaN or infinity, expected a finite one")
    warnings = _placement_doubts(image.header, affine)
    affine[:3] *= _MM_PER_UNIT.get(int(image.header["xyzt_units"]) & _UNIT_BITS, 1.0)
    orientation: Any = nibabel.orientations.io_orientation  # has no types
    flipped = orientation(affine)[:, 1] < 0
    return gathered(_scaled(stored, image.dataobj), shape, flipped), affine, warnings


def _slices(stream: IO[bytes], stored: Any) -> Iterator[NDArray[Any]]:
    """The slices along the last axis of an image of which nibabel has read the header, as they are in its file."""
    i, j, slices = stored.shape[:3]
    size = i * j * stored.dtype.itemsize
    stream.seek(stored.offset)
    for k in range(slices):
        content = stream.read(size)
        if len(content) < size:
            raise OSError(f"Expected {size * slices} bytes, got {size * k + len(content)} bytes")
        yield np.frombuffer(content, dtype=stored.dtype).reshape(i, j, order="F")


def _scaled(slices: Iterable[NDArray[Any]], stored: Any) -> Iterable[NDArray[Any]]:
    """With slope and intercept, if they come from a file; an array that an image was made of is scaled already."""
    from nibabel.volumeutils import apply_read_scaling

    if not _is_proxy(stored) or (stored.slope, stored.inter) == (1, 0):
        return slices
    scaling: Any = apply_read_scaling  # has no types
    return (scaling(one, stored.slope, stored.inter) for one in slices)


def _is_proxy(stored: Any) -> bool:
    """Whether voxels are still in their file."""
    import nibabel

    is_proxy: Any = nibabel.is_proxy  # has no types
    return bool(is_proxy(stored))


def _image_type(stream: IO[bytes], path: Path) -> Any:
    import nibabel

    start = stream.read(352)
    stream.seek(0)
    if start[344:348] == b"n+1\0":
        return nibabel.Nifti1Image
    if start[4:8] == b"n+2\0":
        return nibabel.Nifti2Image
    if start[:2] == b"\x1f\x8b":
        raise ImageError(f"{path}: gzip data, expected an uncompressed NIfTI image (or a name that ends in .nii.gz)")
    if start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0":
        raise ImageError(f"{path}: header of a two-file NIfTI image, expected header and voxels in one file")
    if len(start) < 352:
        raise ImageError(f"{path}: truncated, {len(start)} bytes, expected a NIfTI header of at least 352")
    raise ImageError(f"{path}: no NIfTI signature, expected a 3D NIfTI image")


def _checked_layout(header: Any, source: str) -> tuple[tuple[int, int, int], int]:
    """The 3D shape and the bytes that header and voxels need."""
    dims = int(header["dim"][0])
    if not 1 <= dims <= 7:
        raise ImageError(f"{source}: damaged header (dim[0] is {dims}), expected a 3D image")
    shape = tuple(int(n) for n in header["dim"][1 : dims + 1])
    if len(shape) < 3 or min(shape[:3]) < 2 or any(n != 1 for n in shape[3:]):
        raise ImageError(
            f"{source}: found {dims}D of shape {shape}, expected a 3D image with at least 2 voxels an axis"
        )
    try:
        dtype = header.get_data_dtype()
    except Exception as error:  # nibabel raises several kinds here, among them KeyError
        raise ImageError(
            f"{source}: unknown data type code {int(header['datatype'])}, expected real numbers"
        ) from error
    if dtype.kind not in "iuf":
        name = header.get_value_label("datatype")
        raise ImageError(f"{source}: found {name} voxels, expected one real number for each")
    i, j, k = shape[:3]
    return (i, j, k), int(header["vox_offset"]) + i * j * k * dtype.itemsize


def _check_placement(header: Any, source: str) -> None:
    """Refuse a header that does not say how large a voxel is and where it lies."""
    spacing = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ImageError(f"{source}: voxel spacing {_listed(spacing)}, expected three finite positive numbers")
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise ImageError(f"{source}: no orientation (sform and qform codes are 0), expected at least one to be set")


def _placement_doubts(header: Any, affine: NDArray[np.float64]) -> list[str]:
    warnings = []
    spacing, columns = header["pixdim"][1:4].astype(float), np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, columns, rtol=_SPACING_TOLERANCE):
        warnings.append(f"pixdim says spacing {_listed(spacing)}, the affine says {_listed(columns)}; affine used")
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        corner = np.array([*header["dim"][1:4], 1.0])
        qform = header.get_qform()
        if max(np.abs((affine - qform)[:, 3]).max(), np.abs((affine - qform) @ corner).max()) > _AFFINE_TOLERANCE_MM:
            warnings.append("sform and qform place the scan differently; sform used")
    return warnings


def _listed(numbers: NDArray[np.float64]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
