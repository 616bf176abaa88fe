"""vertfrac from Python: ``from vertfrac import load_model, predict``.

Every error that a caller can cause is one of ``vertfrac.errors``.
"""

from __future__ import annotations

import time
from functools import lru_cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from vertfrac.errors import ImageError, ModelError
from vertfrac.imaging import Image, case_name, image_from_array, image_from_nibabel, read_image
from vertfrac.imaging.messages import one_line, printable
from vertfrac.inference import card, weights
from vertfrac.inference.prediction import Heights, Prediction, Vertebra, predict_image
from vertfrac.inference.weights import Model
from vertfrac.models.device import Device, pick_device

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Heights", "Model", "Prediction", "Vertebra", "load_model", "predict"]

AnyPath = str | PathLike[str]


def predict(
    scan: Any,
    affine: ArrayLike | None = None,
    *,
    model: Model | AnyPath | None = None,
    device: Device = "auto",
    case: str | None = None,
) -> Prediction:
    """Measure and grade the vertebrae of one CT scan.

    scan : a NIfTI file or a folder with one DICOM series by its path; a nibabel image; or an array (i, j, k) of
    Hounsfield units. affine : with an array, and only then, its (4, 4) affine from index to world RAS+ mm.
    model : a model folder, or what `load_model` returned; default: the model that comes with vertfrac. A folder is read
    once, as long as it does not change and no other comes between. device : where to compute; of a loaded model that
    was decided. case : the scan's name; default: that of its file.
    The numbers do not depend on the way in which a scan is given.
    Raises ImageError for a scan that cannot be read or measured, NoSpineError where there is no spine, ModelError for a
    model folder that cannot be used, or a GPU that is not there.
    """
    trained = model if isinstance(model, Model) else load_model(model, device=device)
    if model is trained and device not in ("auto", trained.device.type):
        raise ModelError(f"model {trained.name} was loaded on {trained.device}, expected it on {device}")
    start = time.perf_counter()
    image, name = _read(scan, affine)
    seconds = time.perf_counter() - start
    named = case_name(case) if case else case_name(name) if name else "scan"
    return predict_image(image, trained, case=named, source=printable(image.source), read_seconds=seconds)


def load_model(folder: AnyPath | None = None, *, device: Device = "auto") -> Model:
    """A trained model, ready for any number of scans; default: the one that comes with vertfrac.

    Raises ModelError if the folder is not a whole model folder of this version, or if a GPU is asked for and absent.
    """
    if device not in get_args(Device):
        raise ModelError(f"device {device!r}: expected one of {', '.join(get_args(Device))}")
    path = Path(folder) if folder is not None else card.PRETRAINED
    try:
        return _loaded(path.absolute(), card.model_digest(path), pick_device(device))
    except OSError as error:
        raise ModelError(f"{error.filename or path}: cannot be read ({one_line(error)})") from error


@lru_cache(maxsize=1)
def _loaded(folder: Path, digest: str, device: torch.device) -> Model:
    """The digest tells a folder from what was there before."""
    return weights.load_model(folder, device)


def _read(scan: Any, affine: ArrayLike | None) -> tuple[Image, str | None]:
    """The canonical image of a scan in any form, and the path that names it."""
    if isinstance(scan, str | PathLike):
        path = fspath(scan)
        if affine is not None:
            raise ImageError(f"{path}: found an affine beside a path, expected one beside an array only")
        try:
            return read_image(path), path
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({one_line(error)})") from error
    if affine is not None:
        return image_from_array(scan, affine), None
    if hasattr(scan, "dataobj"):
        return image_from_nibabel(scan), scan.get_filename()
    raise ImageError(
        f"{type(scan).__name__}: found no affine, expected a path, a nibabel image, or an array with its affine"
    )
