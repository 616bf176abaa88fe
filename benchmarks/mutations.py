"""What may happen to a file: blind damage to its bytes, and values of each format that no sound file holds.

A mutation takes a random generator and the bytes of a sound file and returns the harmed bytes and what was done, in
words. Used by benchmarks/fuzz.py.
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
Mutation = Callable[[Rng, bytes], tuple[bytes, str]]

HUGE_TEXT = "x" * 100_000
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 5e-324, 0.5, float("nan"),
    float("inf"), float("-inf"), "", "x", "1", "NaN", "1e999", "\ud800", "\x00", "a\nb", "\x1b[31m", "=1+1", "../../x",
    "/etc/passwd", "C1", "T13", HUGE_TEXT, [], {}, [[]], [None], {"": None}, [1e400] * 3, list(range(5000)),
)  # fmt: skip
"""What a JSON or YAML value may be instead."""
TOKENS = (
    b"NaN", b"-Infinity", b"1e99999", b"1" * 5000, b"[" * 100_000, b'{"a":' * 50_000, b'"\\ud800"', b"\xff\xfe",
    b"\xef\xbb\xbf", b"\x00", b",", b'"', b"}", b"]", b"//", b"\\u0000",
)  # fmt: skip
"""What may stand anywhere in a JSON text."""
CELLS = (
    "", "nan", "inf", "-inf", "1e999", "-1", "0", "1.5", "1e20", "99999999999999999999", "x", "'", '"', "=1+1", "a\nb",
    "\x00", "\x1b[2J", "True", "1,5", "é", "\ud83d\ude00", "../../x", "9" * 5000, "y" * 100_000, " ", "NA", "None",
)  # fmt: skip
"""What a cell of a table may hold instead."""


def chosen(rng: Rng, options: Sequence[Any]) -> Any:
    """One of the options, as it is."""
    return options[int(rng.integers(len(options)))]


def harmed_bytes(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """Blind damage: bits flipped, runs of bytes set, cut, inserted, doubled, removed or moved; once or a few times."""
    for _ in range(int(rng.integers(1, 4))):
        content, what = _harmed_once(rng, content)
    return content, what


def _harmed_once(rng: Rng, content: bytes) -> tuple[bytes, str]:
    data = bytearray(content)
    at = int(rng.integers(len(data) + 1))
    run = int(min(len(data) - at, 2 ** rng.integers(0, 10)))
    what = str(chosen(rng, ("flip", "set", "cut", "insert", "double", "remove", "swap", "empty")))
    if what == "flip" and data:
        for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
            data[place] ^= 1 << int(rng.integers(8))
    elif what == "set":
        data[at : at + run] = bytes([int(chosen(rng, (0, 255, 127, 128, 32, int(rng.integers(256)))))]) * run
    elif what == "cut":
        del data[at:]
    elif what == "insert":
        data[at:at] = rng.bytes(int(2 ** rng.integers(0, 10)))
    elif what == "double":
        data[at:at] = data[at : at + run] * int(rng.integers(1, 20))
    elif what == "remove":
        del data[at : at + run]
    elif what == "swap":
        other = int(rng.integers(len(data) + 1))
        piece = data[at : at + run]
        del data[at : at + run]
        data[other:other] = piece
    else:
        data.clear()
    return bytes(data), f"{what} at {at} of {len(content)} bytes"


def harmed_gzip(rng: Rng, content: bytes, inside: Mutation = harmed_bytes) -> tuple[bytes, str]:
    """A gzip file harmed outside, or inside with a sound wrapping."""
    if rng.random() < 0.3:
        harmed, what = harmed_bytes(rng, content)
        return harmed, f"gzip: {what}"
    harmed, what = inside(rng, gzip.decompress(content))
    return gzip.compress(harmed, compresslevel=1, mtime=0), f"in gzip: {what}"


def harmed_nifti(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """A NIfTI file, one or a few fields of whose header are extreme, or with blind damage."""
    import nibabel

    if rng.random() < 0.35:
        if rng.random() < 0.5:
            head, what = harmed_bytes(rng, content[:544])
            return head + content[544:], f"header: {what}"
        return harmed_bytes(rng, content)
    second = content[4:8] == b"n+2\0"
    kind: Any = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    size = 540 if second else 348
    big = content[:4] == (540 if second else 348).to_bytes(4, "big")
    header = kind(content[:size], endianness=">" if big else "<", check=False)
    fields = header.structarr
    done = []
    for _ in range(int(rng.integers(1, 4))):
        name = str(chosen(rng, _NIFTI_FIELDS))
        values = np.atleast_1d(fields[name])
        values[int(rng.integers(values.size))] = _extreme(rng, values.dtype)
        fields[name] = values.reshape(np.shape(fields[name]))
        done.append(f"{name} = {values.tolist()}")
    return fields.tobytes() + content[size:], "; ".join(done)


_NIFTI_FIELDS = (
    "dim", "dim", "pixdim", "pixdim", "vox_offset", "datatype", "bitpix", "scl_slope", "scl_inter", "qform_code",
    "sform_code", "quatern_b", "quatern_c", "qoffset_x", "srow_x", "srow_y", "srow_z", "xyzt_units", "sizeof_hdr",
    "magic", "cal_max", "slice_end", "intent_code",
)  # fmt: skip
_NIFTI_TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1)


def _extreme(rng: Rng, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return chosen(
            rng, (0, -0.0, 1, -1, np.nan, np.inf, -np.inf, limits.max, limits.min, limits.tiny, 1e-9, 1e4, 1e9, 350.5)
        )
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        usual = [v for v in (*_NIFTI_TYPES, 3, 5, 7, 1000, 32767) if bounds.min <= v <= bounds.max]
        return chosen(rng, (bounds.min, bounds.max, *usual))
    return rng.bytes(dtype.itemsize)


def harmed_json(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """JSON whose values are of other types, doubled, lost or extreme, or whose text is no JSON any more."""
    if rng.random() < 0.25:
        return _harmed_text(rng, content)
    value, done = harmed_value(rng, json.loads(content))
    text = json.dumps(value)
    if rng.random() < 0.1:
        text, done = text.replace(":", f': {json.dumps(chosen(rng, VALUES))}, "again":', 1), f"{done}; key doubled"
    return text.encode("utf-8", "surrogatepass"), done


def _harmed_text(rng: Rng, content: bytes) -> tuple[bytes, str]:
    how = int(rng.integers(4))
    if how == 0:
        return harmed_bytes(rng, content)
    if how == 1:
        encoding = str(chosen(rng, ("utf-16", "utf-32", "utf-8-sig", "utf-16-be", "cp500")))
        return content.decode().encode(encoding), f"encoded as {encoding}"
    token = chosen(rng, TOKENS)
    if how == 2:
        return token, f"nothing but {token[:20]!r}"
    at = int(rng.integers(len(content) + 1))
    return content[:at] + token + content[at:], f"{token[:20]!r} at {at}"


def harmed_lines(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """JSON lines, one of which is harmed."""
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    lines[at], what = harmed_json(rng, lines[at])
    return b"".join(lines), f"line {at}: {what}"


def harmed_value(rng: Rng, value: Any) -> tuple[Any, str]:
    """Plain data (dicts, lists, numbers, texts), harmed in one place or a few."""
    value, done = copy.deepcopy(value), []
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(chosen(rng, VALUES)), "replaced as a whole"
        holder, key = chosen(rng, places)
        done.append(_harm_place(rng, holder, key, places))
    return value, "; ".join(done)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in nested dicts and lists."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        if len(found) < 2000:
            found += _places(value[key])
    return found


def _harm_place(rng: Rng, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> str:
    what = str(chosen(rng, ("replace", "replace", "replace", "remove", "copy", "wrap", "rename", "deepen", "scale")))
    old = holder[key]
    if what == "replace":
        holder[key] = copy.deepcopy(chosen(rng, VALUES))
    elif what == "remove":
        del holder[key]
    elif what == "copy":
        from_holder, from_key = chosen(rng, places)
        with_value = copy.deepcopy(from_holder[from_key]) if _holds(from_holder, from_key) else None
        holder[key] = with_value
    elif what == "wrap":
        holder[key] = chosen(rng, ([old], {"a": old}, [old, old], [old] * 50))
    elif what == "rename" and isinstance(holder, dict):
        holder[str(chosen(rng, ("", "x", "format", "kind", str(key).upper(), HUGE_TEXT, "a\nb")))] = holder.pop(key)
    elif what == "deepen":
        for _ in range(200):
            old = [old]
        holder[key] = old
    elif isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = old * chosen(rng, (0, -1, 1000, 10**300)) if isinstance(old, int) else old * 1e-9
    else:
        holder[key] = copy.deepcopy(chosen(rng, VALUES))
    return f"{what} {str(key)[:40]!r}: {str(old)[:60]!r} -> {str(holder[key])[:60]!r}" if _holds(holder, key) else what


def _holds(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else isinstance(key, int) and key < len(holder)


def harmed_csv(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """A CSV table with columns lost, doubled or renamed, with other cells, rows, separators or encodings."""
    if rng.random() < 0.25:
        if rng.random() < 0.5:
            return harmed_bytes(rng, content)
        encoding = str(chosen(rng, ("utf-16", "utf-8-sig", "cp500", "utf-32")))
        return content.decode().encode(encoding), f"encoded as {encoding}"
    rows = list(csv.reader(io.StringIO(content.decode())))
    done = []
    for _ in range(int(rng.integers(1, 4))):
        what = str(chosen(rng, ("cell", "cell", "cell", "column lost", "column doubled", "header", "row", "rows lost")))
        line, column = int(rng.integers(1, max(2, len(rows)))), int(rng.integers(max(1, len(rows[0]))))
        done.append(f"{what} {line},{column}")
        if what == "cell" and line < len(rows) and column < len(rows[line]):
            rows[line][column] = str(chosen(rng, CELLS))
            done[-1] += f" = {rows[line][column][:40]!r}"
        elif what == "column lost":
            rows = [row[:column] + row[column + 1 :] for row in rows]
        elif what == "column doubled":
            rows = [row[: column + 1] + row[column:] for row in rows]
        elif what == "header" and column < len(rows[0]):
            rows[0][column] = str(chosen(rng, (*CELLS, rows[0][column].upper(), rows[0][0])))
        elif what == "row" and line < len(rows):
            rows.insert(line, chosen(rng, (rows[line], [], ["x"] * 3, ["1"] * 500)))
        elif what == "rows lost":
            rows = rows[:line]
        if not rows or not rows[0]:
            return b"", "; ".join(done)
    text = io.StringIO()
    separator = str(chosen(rng, (",",) * 9 + (";", "\t", "|")))
    csv.writer(text, delimiter=separator).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass"), "; ".join(done)


def harmed_parquet(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """A Parquet table with columns lost, renamed or of other types and values, or with blind damage to its bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if rng.random() < 0.5:
        return harmed_bytes(rng, content)
    table = pq.read_table(io.BytesIO(content)).replace_schema_metadata(None)
    done = []
    for _ in range(int(rng.integers(1, 3))):
        if not table.num_columns:
            break
        column = int(rng.integers(table.num_columns))
        name, rows = table.column_names[column], table.num_rows
        what = str(chosen(rng, ("lose", "values", "values", "rename", "rows")))
        done.append(f"{what} {name}")
        if what == "lose":
            table = table.remove_column(column)
        elif what == "rows":
            table = table.slice(0, int(rng.integers(rows + 1)))
        elif what == "rename":
            names = [*table.column_names]
            names[column] = str(chosen(rng, ("", "x", name.upper(), names[0], "a\nb")))
            table = table.rename_columns(names)
        else:
            values = chosen(rng, _PARQUET_VALUES)
            done[-1] += f" = {str(values)[:60]}"
            table = table.set_column(column, name, pa.array([values] * rows))
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue(), "; ".join(done)


_PARQUET_VALUES: tuple[Any, ...] = (
    None, 0, -1, 2**62, 1e308, float("nan"), float("inf"), "", "x", "1", "a\nb", "\x00", "y" * 10_000, True,
    b"\xff\x00", [1, 2], {"a": 1}, 0.5,
)  # fmt: skip


def harmed_yaml(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """YAML with other values, or with text that is no YAML, asks for objects of Python or grows without end."""
    import yaml

    if rng.random() < 0.3:
        token = chosen(rng, _YAML_TEXTS)
        at = int(rng.integers(len(content) + 1))
        if rng.random() < 0.5:
            return harmed_bytes(rng, content)
        return chosen(rng, (token, content + b"\n" + token, content[:at] + token)), f"{token[:30]!r} at {at}"
    value, done = harmed_value(rng, yaml.safe_load(content))
    return json.dumps(value).encode("utf-8", "surrogatepass"), done  # JSON is YAML, and quicker to write


_LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)
_YAML_TEXTS = (
    b"!!python/object/apply:os.system ['touch harmed']", b"&a [*a]", b"name: &n {b: *n}", b"{" * 2000, b"[" * 2000,
    b"- " * 2000, _LAUGHS, _LAUGHS + b"systems: *a11\n", b"name: *nowhere", b"? [a]\n: b\n", b"\t", b"%YAML 9.9\n---\n",
    b"---\na\n---\nb\n", b"\x00", b"\xff\xfe", b"name: 1\nname: 2\n", b"1: 2\nnull: 3\n", b"folds: {k: 1e3}\n",
    b"seed: 0x" + b"f" * 5000, b"<<: [1]\n", b"2020-13-45: x", b"a: 2020-13-45", b"a: !!binary xx", b"a: !!set {b}",
    b"a: !!float x", b"a: !!int ''", b"a: !!timestamp x",
)  # fmt: skip


def harmed_dicom(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """A DICOM file, some of whose elements are extreme, lost or of a foreign encoding, or with blind damage."""
    import pydicom
    from pydicom.datadict import keyword_for_tag

    draw = rng.random()
    if draw < 0.25:
        return harmed_bytes(rng, content)
    if draw < 0.4:
        head, what = harmed_bytes(rng, content[:1200])
        return head + content[1200:], f"header: {what}"
    one: Any = pydicom.dcmread(io.BytesIO(content))
    done = []
    for _ in range(int(rng.integers(1, 3))):
        name = str(chosen(rng, _DICOM_ELEMENTS))
        if name == "TransferSyntaxUID":
            one.file_meta.TransferSyntaxUID = value = chosen(rng, _SYNTAXES)
        elif name == "lost":
            keywords = map(keyword_for_tag, sorted(one.keys()))  # without looking at values that are harmed already
            name = value = str(chosen(rng, [keyword for keyword in keywords if keyword] or ["Rows"]))
            if name in one:
                del one[name]
        elif name == "PixelData":
            value, _ = harmed_bytes(rng, bytes(one.get("PixelData", b"") or b""))
            value += b"\0" * (len(value) % 2)
            if "PixelData" in one:
                one["PixelData"]._value = value
        else:
            value = chosen(rng, _DICOM_VALUES.get(name, _DICOM_NUMBERS))
            _set_raw(one, name, value)
        done.append(f"{name} = {str(value)[:60]}")
    stream = io.BytesIO()
    try:
        one.save_as(stream, enforce_file_format=False)
    except Exception as error:  # pydicom will not write all that it reads
        harmed, what = harmed_bytes(rng, content)
        return harmed, f"{what} (instead of {done}: {type(error).__name__})"
    return stream.getvalue(), "; ".join(done)


def _set_raw(one: Any, name: str, value: Any) -> None:
    """Set an element without the checks of pydicom, as bytes of its value representation."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(name) or 0)
    vr = dictionary_VR(tag).split(" ")[0]
    if vr == "US":
        data = (int(value) % 65536).to_bytes(2, "little") if isinstance(value, int) else str(value).encode()
    else:
        data = str(value).encode("utf-8", "surrogatepass")
    data += b" " * (len(data) % 2)
    one[tag] = RawDataElement(tag, vr, len(data), data, 0, False, True)


_DICOM_ELEMENTS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept",
    "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "SeriesInstanceUID",
    "SeriesDescription", "SOPClassUID", "SOPInstanceUID", "PatientID", "PatientName", "ImageType",
    "SpecificCharacterSet", "FrameOfReferenceUID", "TransferSyntaxUID", "lost", "PixelData", "PixelData",
    "SeriesNumber",
)  # fmt: skip
_DICOM_NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 3, 7, 8, 16, 17, 32, 64, 65535, -1, "", "nan", "inf", "1e308", "1e999", "x", "1\\2\\3", "0.5", " ",
    "9" * 3000, "\\\\\\",
)  # fmt: skip
_DICOM_VALUES: dict[str, tuple[Any, ...]] = {
    "PixelSpacing": ("0\\0", "1e-30\\1e-30", "1e9\\1e9", "nan\\1", "inf\\inf", "-1\\1", "1", "1\\2\\3", "", "a\\b"),
    "ImageOrientationPatient": (
        "0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0", "nan\\0\\0\\0\\1\\0", "0.6\\0.8\\0\\-0.8\\0.6\\0", "1\\0", "",
        "1e300\\0\\0\\0\\1e300\\0", "0\\0\\1\\0\\1\\0", "1\\0\\0\\0\\-1\\0",
    ),
    "ImagePositionPatient": ("nan\\0\\0", "1e308\\0\\-1e308", "0\\0\\0", "0\\0", "", "1e9\\1e9\\1e9", "0\\0\\inf"),
    "PhotometricInterpretation": ("RGB", "MONOCHROME1", "PALETTE COLOR", "YBR_FULL", "", "x"),
    "ImageType": ("LOCALIZER", "", "ORIGINAL\\PRIMARY\\LOCALIZER", "\x1b[2J"),
    "SpecificCharacterSet": ("ISO_IR 192", "x", "ISO 2022 IR 87", "\\", "GB18030", "\\ISO 2022 IR 149"),
    "SOPClassUID": ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2.1", "", "x", "1." * 2000),
    "SeriesDescription": ("a\nb", "\x1b[2J", "y" * 10_000, "\xe4\xf6", ""),
    "SeriesInstanceUID": ("", "1.2.3", "x", "a\nb", "\x00", "1" * 10_000),
    "PatientID": ("", "a\\b", "y" * 10_000, "\x1b[2J"),
    "PatientName": ("", "a=b=c=d=e", "y" * 10_000, "\xe4^\xf6"),
}  # fmt: skip
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201", "1.2.3.4", "",
)  # fmt: skip


def harmed_safetensors(rng: Rng, content: bytes) -> tuple[bytes, str]:
    """A safetensors file with another length or content of its header, with NaN among the numbers, or blind damage."""
    if rng.random() < 0.3:
        return harmed_bytes(rng, content)
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.15:
        other = int(chosen(rng, (0, 1, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1)))
        return other.to_bytes(8, "little") + content[8:], f"header of {other} bytes"
    numbers = bytearray(content[8 + length :])
    if rng.random() < 0.3 and len(numbers) >= 4:
        at = int(rng.integers(len(numbers) // 4)) * 4
        value = chosen(rng, (np.nan, np.inf, -np.inf, 3e38))
        numbers[at : at + 4] = np.float32(value).tobytes()
        return content[: 8 + length] + bytes(numbers), f"number {at // 4} = {value}"
    header, done = harmed_value(rng, json.loads(content[8 : 8 + length]))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + bytes(numbers), done
