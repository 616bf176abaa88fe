"""Reading scans: NIfTI files and DICOM folders become one value, :class:`Image`, in RAS+ millimetres.

nibabel, pydicom and highdicom are imported inside the functions that read or write, not here: together they take
more than a second, which commands that read no scan should not pay.
"""

from vertfrac.imaging.image import Image, canonical, case_name, is_nifti, read_image, read_series, write_nifti
from vertfrac.imaging.memory import image_from_array, image_from_nibabel

__all__ = [
    "Image",
    "canonical",
    "case_name",
    "image_from_array",
    "image_from_nibabel",
    "is_nifti",
    "read_image",
    "read_series",
    "write_nifti",
]
