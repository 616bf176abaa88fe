"""The stored values of DICOM files, damaged ones too: what may end its process decodes in a process apart.

pydicom decodes native, deflated and RLE pixels itself, JPEG 2000 and JPEG by Pillow, lossless JPEG, JPEG-LS and JPEG
of 12 bits by gdcm. On some damaged files gdcm ends the process it runs in instead of raising.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vertfrac.imaging.messages import one_line

_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG of 8 bits
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG of 12 bits
    "1.2.840.10008.1.2.4.57": "gdcm",  # lossless JPEG
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "gdcm",  # JPEG-LS, over which pyjpegls may take many seconds
    "1.2.840.10008.1.2.4.81": "gdcm",
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pillow",
}
"""By transfer syntax, where pydicom knows several."""


class Decoder:
    """Decodes the files of a series; the process apart starts with the first file that needs it."""

    def __init__(self) -> None:
        self._apart: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._apart is not None:
            self._apart.kill()
            self._apart.communicate()

    def stored(self, path: Path, dataset: Any) -> NDArray[Any]:
        """The values of a file as they are stored, (rows, columns).

        dataset : as pydicom has read it. May raise any exception on damaged or unknown data, as pydicom and its
        decoders do, ValueError if the process apart cannot decode it or ends.
        """
        plugin = _PLUGINS.get(dataset.file_meta.TransferSyntaxUID, "")
        if plugin == "gdcm":
            return self._ask(path)
        dataset.pixel_array_options(decoding_plugin=plugin)
        values: NDArray[Any] = dataset.pixel_array
        return values

    def _ask(self, path: Path) -> NDArray[Any]:
        if self._apart is None:
            self._apart = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        question, answer = self._apart.stdin, self._apart.stdout
        assert question is not None
        assert answer is not None
        try:
            question.write(json.dumps(os.path.abspath(path)).encode() + b"\n")
            question.flush()
            head = json.loads(answer.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise ValueError("the decoder ended") from error
        if "error" in head:
            raise ValueError(head["error"])
        dtype, shape = np.dtype(head["dtype"]), head["shape"]
        return np.frombuffer(answer.read(dtype.itemsize * int(np.prod(shape))), dtype=dtype).reshape(shape)


def _answer() -> None:
    """Decode the files whose paths come in, a line of JSON each: a line of JSON and the bytes of the values go out."""
    import pydicom

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints
    for line in sys.stdin:
        try:
            dataset = pydicom.dcmread(json.loads(line))
            dataset.pixel_array_options(decoding_plugin="gdcm")
            values = np.ascontiguousarray(dataset.pixel_array)
            head: dict[str, Any] = {"dtype": values.dtype.str, "shape": values.shape}
            content = values.tobytes()
        except Exception as error:  # pydicom and gdcm raise almost anything on damaged data
            head, content = {"error": one_line(error)}, b""
        out.write(json.dumps(head).encode() + b"\n" + content)
        out.flush()


if __name__ == "__main__":
    _answer()
