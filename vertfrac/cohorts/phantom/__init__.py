"""Procedural CT phantoms with exact vertebral keypoints: `make_phantom`, `write_phantoms`.

`anatomy` draws a spine as numbers, `look` its tissues, `canvas` paints shapes, `vertebra` and `body` know the shapes,
`scanner` turns them into a scan, `generate` puts all together and writes cohorts.
"""

from vertfrac.cohorts.phantom.anatomy import Column, random_column
from vertfrac.cohorts.phantom.generate import (
    Phantom,
    PhantomVertebra,
    SpineMasks,
    make_masks,
    make_phantom,
    write_image,
    write_phantoms,
)

__all__ = [
    "Column",
    "Phantom",
    "PhantomVertebra",
    "SpineMasks",
    "make_masks",
    "make_phantom",
    "random_column",
    "write_image",
    "write_phantoms",
]
