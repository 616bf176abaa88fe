"""Damaged files for every reader: each gives a valid result or one line that names it, soon and in little memory.

    python benchmarks/fuzz.py --inputs 10000 --seed 1 --out benchmarks/fuzz.csv

Each reader first takes its sound files, which are a few kB. Then one of them is harmed (benchmarks/mutations.py) and
read, again and again, by a process whose address space is limited. An input passes if the result is sound or a
VertfracError says what is wrong in one line that holds the path, within the limits below. Whatever else happens is a
failure: it is printed with the command that repeats it (`--reader NAME --input NUMBER`), and the exit code is 1. With
`--reader` the CSV keeps the rows of the other readers.

The CSV: inputs, accepted ones, refused ones, failures, the classes of the refusals, the slowest input in ms and the
most memory that one took beyond what the process held before, in MB.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
import mutations

from vertfrac.errors import VertfracError, printable

LIMIT_S = 10.0
LIMIT_MB = 512
SPACE_MB = 4096
"""Address space beyond what the process had before; threads and maps of libraries count too."""
LONGEST_LINE = 2000

Rng = np.random.Generator
MUTATIONS: dict[str, mutations.Mutation] = {
    ".nii": mutations.harmed_nifti,
    ".gz": lambda rng, content: mutations.harmed_gzip(rng, content, mutations.harmed_nifti),
    ".dcm": mutations.harmed_dicom,
    ".json": mutations.harmed_json,
    ".jsonl": mutations.harmed_lines,
    ".csv": mutations.harmed_csv,
    ".parquet": mutations.harmed_parquet,
    ".yaml": mutations.harmed_yaml,
    ".safetensors": mutations.harmed_safetensors,
}
"""By the ending of a file."""


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    make : writes folders of sound files into a folder. read : reads one of them and raises UnsoundError for a result
    that no sound file gives. harmed : pattern of the files to harm. after : changes the folder once more when a file of
    it was harmed.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    harmed: str = "*"
    after: Callable[[Rng, Path], None] | None = None


class UnsoundError(Exception):
    """A reader took a file, but what it returned makes no sense."""


class _TooLong(BaseException):
    """The time limit; no Exception, so that nothing in between catches it."""


class Result(NamedTuple):
    """Of one input: accepted, the class of the error, or FAILURE, whose detail says what happened."""

    number: int
    kind: str
    detail: str
    seconds: float
    peak_mb: float


FAILURE = "FAILURE"


def expect(sound: bool, what: str) -> None:
    """Raise UnsoundError unless a result is sound."""
    if not sound:
        raise UnsoundError(what)


def check_image(image: Any) -> None:
    """A canonical scan: finite values on a finite grid, warnings of one line."""
    expect(image.hu.shape == image.grid.shape, "shape")
    expect(bool(np.isfinite(image.hu).all()), "values that are not finite")
    expect(bool(np.isfinite(image.grid.world_from_index).all()), "affine that is not finite")
    expect(bool((np.diag(image.grid.world_from_index)[:3] > 0).all()), "axes that are not RAS")
    check_lines(image.warnings)


def check_lines(texts: Any) -> None:
    """Sentences fit for a terminal and a cell of a table."""
    for text in texts:
        wrong = not isinstance(text, str) or printable(text) != text or len(text) > LONGEST_LINE
        expect(not wrong, f"a text that is not one printable line: {text!r:.200}")


def check_keypoints(rows: pd.DataFrame) -> None:
    """Rows of a table of vertebrae whose coordinates are finite."""
    from vertfrac.tables import keypoints_of

    expect(bool(np.isfinite(keypoints_of(rows)).all()), "keypoints that are not finite")


# --- sound files


def keypoints(count: int = 4) -> np.ndarray:
    """A straight spine, (n, 6, 3), world RAS mm, inside `scan_image`."""
    points = np.zeros((count, 6, 3))
    for n in range(count):
        for k, y in enumerate((8.0, 0.0, -8.0)):
            points[n, 2 * k] = 0, y, 32 - 20 * n
            points[n, 2 * k + 1] = 0, y, 20 - 20 * n
    return points


def scan_image(shape: tuple[int, int, int] = (12, 11, 10), spacing_mm: float = 8.0) -> Any:
    """A canonical scan of noise about world 0."""
    from vertfrac.geometry.grid import Grid
    from vertfrac.imaging import Image

    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) * spacing_mm / 2
    hu = np.random.default_rng(1).integers(-1000, 1500, shape).astype(np.int16)
    return Image(hu, Grid(shape, affine), "sound")


def annotations(case: str = "one") -> pd.DataFrame:
    """Rows of ANNOTATIONS."""
    from vertfrac import tables

    return tables.ANNOTATIONS.frame(
        {"case": case, "expert": "a", "vertebra": n, "level": f"L{n}", **tables.keypoint_values(points)}
        for n, points in enumerate(keypoints(), start=1)
    )


def make_nifti(folder: Path, ending: str = ".nii") -> None:
    """int16, big-endian, NIfTI-2, scaled bytes, a fourth axis of length 1, float32."""
    import nibabel

    image = scan_image()
    affine, hu = image.grid.world_from_index, image.hu
    scaled: Any = nibabel.Nifti1Image((hu // 10 + 110).astype(np.uint8), affine)
    scaled.header.set_slope_inter(10, -1100)
    big: Any = nibabel.Nifti1Header(endianness=">")
    big.set_data_dtype(np.int16)
    kinds: dict[str, Any] = {
        "int16": nibabel.Nifti1Image(hu, affine),
        "big": nibabel.Nifti1Image(hu, affine, header=big),
        "nifti2": nibabel.Nifti2Image(hu, affine),
        "scaled": scaled,
        "four": nibabel.Nifti1Image(hu[..., None], affine),
        "float": nibabel.Nifti1Image(hu.astype(np.float32) + 0.5, affine),
    }
    for name, kind in kinds.items():
        (folder / name).mkdir()
        kind.header.set_xyzt_units("mm")
        nibabel.save(kind, folder / name / f"scan{ending}")


def make_labels(folder: Path) -> None:
    """A label map, packed and not."""
    import nibabel

    labels = np.zeros((12, 11, 10), dtype=np.uint8)
    labels[3:8, 3:8, 2:5], labels[3:8, 3:8, 6:9] = 20, 19
    for name in ("mask.nii", "mask.nii.gz"):
        (folder / name.replace(".", "_")).mkdir()
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([4.0, 4, 4, 1])), folder / name.replace(".", "_") / name)


def make_dicom(folder: Path) -> None:
    """One series of five slices, little-endian."""
    from vertfrac.imaging.dicom_write import write_dicom

    image = scan_image((16, 12, 5))
    write_dicom(folder / "series", image, patient="p", seed=["s"], names=[f"{n}.dcm" for n in range(5)])


def make_compressed(folder: Path) -> None:
    """The same series, compressed by RLE, JPEG-LS, lossless JPEG, JPEG 2000, and deflated."""
    import gdcm
    import pydicom
    from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

    make_dicom(folder)
    native = sorted((folder / "series").iterdir())
    kinds = {"jpegls": "4.80", "lossless": "4.70", "jpeg2000": "4.90", "rle": "5", "deflated": "1.99"}
    for name, ending in kinds.items():
        (folder / name).mkdir()
        for file in native:
            target = folder / name / file.name
            if name in ("rle", "deflated"):
                one = pydicom.dcmread(file)
                if name == "rle":
                    one.compress(RLELossless)
                else:
                    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
                one.save_as(target)
                continue
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(str(file))
            expect(reader.Read(), "GDCM reads")
            syntax = UID(f"1.2.840.10008.1.2.{ending}")
            change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
            change.SetInput(reader.GetImage())
            expect(change.Change(), "GDCM compresses")
            writer.SetFileName(str(target))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            expect(writer.Write(), "GDCM writes")
    for file in native:
        file.unlink()
    (folder / "series").rmdir()


def make_annotation(folder: Path) -> None:
    """Our own JSON form, with and without what may be left out."""
    from vertfrac.cohorts.annotation_json import write_annotation

    (folder / "usual").mkdir()
    write_annotation(folder / "usual" / "one.json", annotations())
    content = json.loads((folder / "usual" / "one.json").read_text())
    content["scan"] = {"shape": [12, 11, 10], "spacing_mm": [8, 8, 8]}
    content["experts"]["b"] = [{**v, "measurable": n > 0} for n, v in enumerate(content["experts"]["a"])]
    (folder / "rich").mkdir()
    (folder / "rich" / "one.json").write_text(json.dumps(content))


def make_markups(folder: Path) -> None:
    """Rulers; points; a curve of the spine beside rulers."""
    from vertfrac.cohorts.markups import markup, rulers, write_markups, write_rulers
    from vertfrac.geometry.keypoints import KEYPOINTS

    for name in ("rulers", "points", "curve"):
        (folder / name).mkdir()
    rows = annotations()
    write_rulers(folder / "rulers" / "one.mrk.json", rows)
    points = [
        (f"L{n} {name.replace('_', ' ')}", point)
        for n, vertebra in enumerate(keypoints(), start=1)
        for name, point in zip(KEYPOINTS, vertebra, strict=True)
    ]
    write_markups(folder / "points" / "one.mrk.json", [markup("Fiducial", "F", points)])
    curve = markup("Curve", "spine", [(f"spine-{n}", np.array([0.0, 0, -n])) for n in range(3)])
    lines = [line for three in rulers(rows) for line in three]
    write_markups(folder / "curve" / "one.mrk.json", [curve, *lines])


def make_lungcancer500(folder: Path) -> None:
    """Both public JSON forms."""
    voxels = [[[30 + 10 * k, 20, 10 + 8 * n + 6 * e] for k in range(3) for e in range(2)] for n in range(3)]
    newer = [
        {"segments": [v[0:2], v[2:4], v[4:6]], "type": f"Th{n}"} for n, v in enumerate(voxels, start=5)
    ]  # fmt: skip
    for name, vertebrae in (("2020", voxels), ("2022", newer)):
        (folder / name).mkdir()
        content = {"SeriesInstanceUID": "1.2.3", "Folder": "one", "Annotation": {"a": vertebrae, "b": vertebrae[:2]}}
        (folder / name / "one.json").write_text(json.dumps(content))


def make_verse(folder: Path) -> None:
    """Centroids with and without directions, grades in both forms."""
    points = [{"label": n, "X": 10.5 * n, "Y": 40.9, "Z": 32.3} for n in (18, 19, 20)]
    (folder / "usual").mkdir()
    (folder / "usual" / "ctd.json").write_text(json.dumps([{"direction": ["P", "I", "R"]}, *points]))
    (folder / "usual" / "grades.csv").write_text(
        "scan_id,patient_id,vertebra,genant_grade\n15,p,T12,2\nverse16,,19,0\n"
    )
    (folder / "other").mkdir()
    (folder / "other" / "ctd.json").write_text(json.dumps(points))
    (folder / "other" / "grades.csv").write_text("verse_ID;T11_fx-g;T12_fx-g\n15;0;1\n16;;3\n")


def make_cohort(folder: Path, ending: str) -> None:
    """A folder of scans with tables of scans, annotations and landmarks."""
    from vertfrac import tables
    from vertfrac.imaging import write_nifti

    here = folder / "cohort"
    here.mkdir()
    write_nifti(here / "scan.nii", scan_image())
    cases = pd.DataFrame({"case": ["one", "two"], "image": "scan.nii", "patient": ["p", "q"], "split": "train"})
    marks = pd.concat([annotations("one"), annotations("two")])
    if ending == ".csv":
        cases.to_csv(here / "cases.csv", index=False)
        tables.write_csv(here / "annotations.csv", marks)
        landmarks = [{"case": "one", "level": "S1", "x": 0.0, "y": 0.0, "z": -30.0}]
        tables.write_csv(here / "landmarks.csv", tables.LANDMARKS.frame(landmarks))
    else:
        tables.write_table(here / "cases.parquet", tables.SCANS, cases)
        tables.write_table(here / "annotations.parquet", tables.ANNOTATIONS, marks)


def make_scored(folder: Path) -> None:
    """Annotations and predictions to score, as CSV and as Parquet."""
    from vertfrac import tables

    marks = pd.concat([annotations("one"), annotations("two")])
    found = marks.drop(columns=["expert", "grade"]).assign(score=0.9, status="ok", level_probability=0.9)
    for name in ("csv", "parquet"):
        here = folder / name
        here.mkdir()
        for table, schema, rows in (
            ("annotations", tables.ANNOTATIONS, marks), ("predictions", tables.PREDICTIONS, found)
        ):  # fmt: skip
            if name == "csv":
                tables.write_csv(here / f"{table}.csv", rows)
            else:
                tables.write_table(here / f"{table}.parquet", schema, rows)


TINY: dict[str, Any] = {
    "localizer": {
        "input": {"spacing_mm": [8, 8, 8], "scaling": "window", "window_hu": [-500, 1000], "edge_mm": 8},
        "network": {"widths": [2, 3], "limits": "none"},
        "crop_mm": [64, 64, 64],
        "training": {"steps": 2, "batch": 1, "learning_rate": 0.001},
        "inference": {"limit_probability": 0.01},
    },
    "detector": {
        "input": {"scaling": "window", "window_hu": [-250, 850]},
        "network": {"kind": "anchor_free", "widths": [2, 3], "output_stride": 2, "mean_offsets": True},
        "crop_mm": [64, 48],
        "straighten": {"width_mm": 64},
        "training": {"steps": 2, "batch": 1, "learning_rate": 0.001},
        "inference": {"score": 0.3, "low_score": 0.1, "average_mm": 2},
    },
}
"""Plain values of a System whose networks have a few hundred weights."""


def make_model(folder: Path) -> None:
    """A model folder of untrained networks, one of either kind of detector."""
    import torch

    from vertfrac.config import System
    from vertfrac.inference.weights import build_detector, build_localizer, export_model, save_weights

    based = {"kind": "anchor_based", "widths": [2, 3], "output_stride": 2, "scales_mm": [20], "ratios": [1]}
    for name, network in (("free", TINY["detector"]["network"]), ("based", based)):
        system = System.model_validate({**TINY, "detector": {**TINY["detector"], "network": network}})
        localizer = build_localizer(system.localizer.network, seed=0)
        detector = build_detector(system.detector.network, 1.0, seed=0)
        if name == "free":
            shape = [[-9, -13], [9, -13], [-8, 0], [8, 0], [-9, 13], [9, 13]]
            detector.get_buffer("mean_offsets").copy_(torch.tensor(shape))
        for kind, made, settings in (
            ("localizer", localizer, system.localizer.network), ("detector", detector, system.detector.network)
        ):  # fmt: skip
            save_weights(folder / f"{kind}.weights", made, kind=kind, settings=settings.model_dump(mode="json"))
        export_model(
            folder / name, name="tiny", system=system, slice_spacing_mm=1.0, cohort={"cases": 1}, scores=[],
            localizers=[folder / "localizer.weights"], detectors=[folder / "detector.weights"],
        )  # fmt: skip
    for rest in folder.glob("*.weights"):
        rest.unlink()


def promise(rng: Rng, folder: Path) -> None:
    """Mostly, have the card promise the weights that are there: who tampers on purpose does so too."""
    if rng.random() < 0.2:
        return
    try:
        card = json.loads((folder / "model.json").read_text())
        for entry in (*card["localizers"], *card["detectors"]):
            entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
        (folder / "model.json").write_text(json.dumps(card))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the card itself is harmed
        return


def make_config(folder: Path) -> None:
    """Systems spelled out, with one based on another, and named ones of a file beside."""
    import yaml

    base = {
        "name": "run", "cohort": {"kind": "phantom", "cases": 4}, "folds": {"k": 2},
        "systems": {"tiny": TINY, "other": {"base": "tiny", "detector": {"inference": {"nms": "box"}}}},
        "evaluation": {"closeness": "distance"},
        "transfer": {"more": {"cohort": {"kind": "nifti", "folder": "/data"}}},
    }  # fmt: skip
    (folder / "spelled").mkdir()
    (folder / "spelled" / "run.yaml").write_text(yaml.safe_dump(base))
    (folder / "named" / "systems").mkdir(parents=True)
    (folder / "named" / "systems" / "mine.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "named" / "run.yaml").write_text(yaml.safe_dump({**base, "systems": ["mine"]}))


def make_archive(folder: Path) -> None:
    """A configuration of an archive and its table of scans, as CSV and as Parquet."""
    import yaml

    from vertfrac import tables

    listed = [{"case": f"c{n}", "image": f"{n}.nii.gz"} for n in range(5)]
    for name in ("csv", "parquet"):
        here = folder / name
        here.mkdir()
        (here / "archive.yaml").write_text(yaml.safe_dump({"scans": f"scans.{name}", "model": "model", "out": "out"}))
        if name == "csv":
            pd.DataFrame(listed).to_csv(here / "scans.csv", index=False)
        else:
            tables.write_table(here / "scans.parquet", tables.SCANS, listed)


def make_journal(folder: Path) -> None:
    """The journal of a shard that was stopped."""
    (folder / "shard").mkdir()
    lines = [{"scan": {"case": f"c{n}", "status": "failed", "reason": "x"}, "vertebrae": []} for n in range(3)]
    (folder / "shard" / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_arrays(folder: Path) -> None:
    """Cached arrays with their description."""
    from vertfrac.arrays import write_arrays

    (folder / "cache").mkdir()
    cases = {"one": {"affine": np.eye(4).tolist()}, "two": {"affine": np.eye(4).tolist()}}
    arrays = {"one": np.zeros((3, 4), np.int16), "one#beside": np.zeros((2, 2), np.uint8), "two": np.ones((2, 2))}
    write_arrays(folder / "cache" / "slices.safetensors", arrays, {"cases": cases})


def make_predicted(folder: Path) -> None:
    """The results of `vertfrac predict`, from which it writes its page again."""
    from vertfrac.imaging import write_nifti
    from vertfrac.inference.predict import predict_scans

    make_model(folder)
    write_nifti(folder / "scan.nii", scan_image())
    predict_scans([folder / "scan.nii"], folder / "graded", folder / "free", device=cpu())
    for rest in ("free", "based"):
        for file in (folder / rest).iterdir():
            file.unlink()
        (folder / rest).rmdir()
    (folder / "scan.nii").unlink()


def make_predict(folder: Path) -> None:
    """Scans to measure, and beside them a model."""
    make_nifti(folder)
    make_model(folder / ".model")


# --- reading them


def cpu() -> Any:
    """Where everything is computed."""
    import torch

    return torch.device("cpu")


def one_file(folder: Path) -> Path:
    """The file of a folder that holds one."""
    return next(path for path in sorted(folder.rglob("*")) if path.is_file())


def read_scan(folder: Path) -> None:
    """One NIfTI file."""
    from vertfrac.imaging import read_image

    check_image(read_image(one_file(folder)))


def read_mask(folder: Path) -> None:
    """A label map."""
    from vertfrac.imaging.labels import read_labels

    labels = read_labels(one_file(folder))
    expect(labels.labels.shape == labels.grid.shape and bool(labels.labels.any()), "labels")


def read_series(folder: Path) -> None:
    """A folder of DICOM files, and what reports take over of it."""
    from vertfrac.imaging import read_image
    from vertfrac.imaging.dicom_source import read_source

    image = read_image(folder)
    check_image(image)
    check_lines(read_source(image.files).warnings)


def read_index(folder: Path) -> None:
    """The index of a folder of DICOM files."""
    from vertfrac import tables
    from vertfrac.cohorts.series_index import index_series

    rows = index_series(folder, threads=1)
    expect(len(rows) == sum(path.is_file() for path in folder.iterdir()), "a file without a row")
    check_lines(rows["reason"])
    tables.write_table(folder.parent / "index.parquet", tables.SERIES, rows)


def read_own_annotation(folder: Path) -> None:
    """Our own JSON form."""
    from vertfrac.cohorts.annotation_json import read_annotation

    read = read_annotation(one_file(folder), "one", scan_image().grid)
    check_keypoints(read.rows)
    check_lines(read.left_out)


def read_slicer(folder: Path) -> None:
    """Markups of 3D Slicer."""
    from vertfrac.cohorts.markups import read_markups

    read = read_markups([one_file(folder)], "one")
    check_keypoints(read.rows)
    check_lines(read.left_out)


def read_public(folder: Path) -> None:
    """The public JSON forms."""
    from vertfrac.cohorts.lungcancer500_json import annotation_rows, nominal_affine, read_studies

    for _, study in read_studies(folder):
        check_keypoints(pd.DataFrame(annotation_rows(study, nominal_affine())))


def read_verse(folder: Path) -> None:
    """What VerSe has beside its images."""
    from vertfrac.cohorts.verse.centroids import check_centroids, read_centroids
    from vertfrac.cohorts.verse.grades import read_grades

    for scan in read_grades(folder / "grades.csv").values():
        expect(set(scan.grades.values()) <= {0, 1, 2, 3}, "grades")
    image = scan_image()
    labels = np.zeros(image.hu.shape, dtype=np.uint8)
    labels[2:5, 2:5, 2:5], labels[2:5, 2:5, 6:9] = 20, 19
    check_lines(check_centroids(read_centroids(folder / "ctd.json"), labels, image.grid, 1e6))


def read_cohort(folder: Path) -> None:
    """A cohort as it is ingested."""
    from vertfrac.cohorts.ingest import ingest
    from vertfrac.cohorts.nifti import scans
    from vertfrac.cohorts.sources import check_names

    table = folder / "cases.parquet"
    listed = scans(table=str(table)) if table.exists() else scans(folder=str(folder))
    check_names((scan.case, scan.source) for scan in listed)
    with tempfile.TemporaryDirectory() as out:
        rows = ingest(listed, Path(out))
    check_lines(rows["reason"])
    check_lines(rows["warnings"].dropna())


def read_scored(folder: Path) -> None:
    """Annotations and predictions, scored."""
    from vertfrac.evaluation.run import evaluate

    ending = folder.name
    evaluate(
        folder / f"annotations.{ending}", [folder / f"predictions.{ending}"], closeness="distance", threshold=20.0,
        run={"system": "x", "repeat": 0}, out=folder.parent / ".scores", warn=lambda text: None,
    )  # fmt: skip


def read_model(folder: Path) -> None:
    """A model folder, which then answers with finite numbers."""
    import torch

    from vertfrac.inference.weights import load_model

    model = load_model(folder, cpu())
    expect(0 < model.slice_spacing_mm < np.inf, "spacing of slices")
    for network in (*model.localizers, *model.detectors):
        for name, tensor in network.state_dict().items():
            expect(bool(torch.isfinite(tensor).all()), f"{name} is not finite")


def read_run(folder: Path) -> None:
    """The configuration of a run."""
    from vertfrac.config import canonical, read_yaml, resolve

    canonical(resolve(read_yaml(folder / "run.yaml"), folder, str(folder / "run.yaml")))


def read_archive(folder: Path) -> None:
    """The configuration of an archive and its list of scans."""
    from vertfrac.cohorts.archive import list_archive
    from vertfrac.config import Archive, parse, read_yaml

    parse(Archive, read_yaml(folder / "archive.yaml"), str(folder / "archive.yaml"))
    rows = list_archive(folder / f"scans.{folder.name}", folder.parent / "list.parquet", shards=3)
    expect(rows["case"].is_unique and rows["shard"].between(0, 2).all(), "shards")


def read_journal(folder: Path) -> None:
    """The journal of a shard."""
    from vertfrac.inference.archive import _read_journal

    for entry in _read_journal(folder / "journal.jsonl"):
        expect(isinstance(entry["scan"]["case"], str) and isinstance(entry["vertebrae"], list), "entry")


def read_cache(folder: Path) -> None:
    """Cached arrays."""
    from vertfrac.arrays import iterate_pairs

    for name, array, _, entry in iterate_pairs([folder / "slices.safetensors"]):
        expect(isinstance(name, str) and array.size >= 0 and isinstance(entry, dict), "entry")


def read_predicted(folder: Path) -> None:
    """The results of a prediction, as a page."""
    from vertfrac.report.page import write_report

    write_report(folder)


def read_measured(folder: Path) -> None:
    """A scan from the file to its vertebrae."""
    from vertfrac.inference.predict import predict_scan
    from vertfrac.inference.weights import load_model

    model = _MODELS.setdefault(str(folder.parent), None) or load_model(folder.parent / ".model" / "free", cpu())
    _MODELS[str(folder.parent)] = model
    outcome = predict_scan("one", one_file(folder), model, None)
    check_lines([outcome.row["sentence"], *outcome.warnings])
    if outcome.row["status"] != "ok":
        raise VertfracError(outcome.row["reason"])


_MODELS: dict[str, Any] = {}

READERS: dict[str, Reader] = {
    "nifti": Reader(make_nifti, read_scan),
    "nifti-gz": Reader(lambda folder: make_nifti(folder, ".nii.gz"), read_scan),
    "labels": Reader(make_labels, read_mask),
    "dicom": Reader(make_dicom, read_series),
    "dicom-compressed": Reader(make_compressed, read_series),
    "dicom-index": Reader(make_dicom, read_index),
    "annotation-json": Reader(make_annotation, read_own_annotation),
    "markups": Reader(make_markups, read_slicer),
    "lungcancer500-json": Reader(make_lungcancer500, read_public),
    "verse": Reader(make_verse, read_verse),
    "cohort-csv": Reader(lambda folder: make_cohort(folder, ".csv"), read_cohort, "*.csv"),
    "cohort-parquet": Reader(lambda folder: make_cohort(folder, ".parquet"), read_cohort, "*.parquet"),
    "scored": Reader(make_scored, read_scored),
    "config": Reader(make_config, read_run),
    "model": Reader(make_model, read_model, after=promise),
    "archive": Reader(make_archive, read_archive),
    "journal": Reader(make_journal, read_journal),
    "arrays": Reader(make_arrays, read_cache),
    "predicted": Reader(make_predicted, read_predicted),
    "predict": Reader(make_predict, read_measured),
}


# --- harming and reading them


class Bench:
    """The sound files of a reader in a folder of their own, one of which is harmed at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.reader = name, READERS[name]
        self.reader.make(folder)
        self.places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.sound = {
            place: {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
            for place in self.places
        }
        for place in self.places:
            self.reader.read(place)

    def attempt(self, seed: int, number: int, *, show: bool = False) -> Result:
        """Harm and read; the same seed and number give the same input."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), number])
        place = mutations.chosen(rng, self.places)
        files = [path for path in self.sound[place] if path.match(self.reader.harmed)]
        files = [path for path in files if path.suffix in MUTATIONS]
        file = mutations.chosen(rng, files)
        content, what = MUTATIONS[file.suffix](rng, self.sound[place][file])
        for path in place.rglob("*"):
            if path.is_file() and path not in self.sound[place]:
                path.unlink()
        file.write_bytes(content)
        if self.reader.after is not None:
            self.reader.after(rng, place)
        if show:
            click.echo(f"{file}: {what}\n{content[:2000]!r}")
        try:
            kind, detail, seconds, peak = self._read(place)
        finally:
            for path, before in self.sound[place].items():
                path.write_bytes(before)
        detail = f"{detail} <- {file.relative_to(place)}: {what[:300]}" if kind == FAILURE else detail
        return Result(number, kind, detail, seconds, peak)

    def _read(self, place: Path) -> tuple[str, str, float, float]:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = _memory_mb("VmRSS")
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            self.reader.read(place)
            kind, detail = "accepted", ""
        except VertfracError as error:
            kind, detail = type(error).__name__, str(error)
            if str(place) not in detail:
                kind, detail = FAILURE, f"{kind}: does not name the file: {detail[:300]}"
            elif printable(detail) != detail:
                kind, detail = FAILURE, f"{kind}: not one printable line: {detail[:300]!r}"
            elif len(detail) > LONGEST_LINE:
                kind, detail = FAILURE, f"{kind}: a line of {len(detail)} characters: {detail[:300]}"
        except _TooLong:
            kind, detail = FAILURE, f"took longer than {LIMIT_S} s in {_where()}"
        except Exception as error:
            kind, detail = FAILURE, f"{type(error).__name__} in {_where()}: {str(error)[:300]!r}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.perf_counter() - start
        peak = max(0.0, _memory_mb("VmHWM") - before)
        if kind != FAILURE and peak > LIMIT_MB:
            kind, detail = FAILURE, f"took {peak:.0f} MB: {detail[:300]}"
        return kind, detail, seconds, peak


def _where() -> str:
    """The innermost line of vertfrac in the current exception, and where it was raised."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "/vertfrac/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _memory_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status: no {name}")


def _raise_too_long(*_: Any) -> None:
    raise _TooLong


def attempts(name: str, folder: Path, seed: int, numbers: range) -> Iterator[Result]:
    """The results of some inputs of a reader, in this process."""
    before = signal.signal(signal.SIGALRM, _raise_too_long)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bench = Bench(name, folder)
            yield from (bench.attempt(seed, number) for number in numbers)
    finally:
        logging.disable(level)
        signal.signal(signal.SIGALRM, before)


def _work(pipe: Connection, name: str, seed: int, numbers: range) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print what they think of a file
    with tempfile.TemporaryDirectory() as folder:
        results = attempts(name, Path(folder), seed, range(numbers.start, numbers.stop))
        first = next(results)  # everything that is imported once is in memory now
        pipe.send(first)
        space = int(_memory_mb("VmSize") + SPACE_MB) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        try:
            for result in results:
                pipe.send(result)
        except Exception as error:  # of this program, not of a reader
            pipe.send(error)


def results_of(name: str, seed: int, inputs: int) -> Iterator[Result]:
    """The results of all inputs of a reader, in a process of its own, which is started again if it dies or hangs."""
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"  # what is computed is small
    done = 0
    while done < inputs:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(there, name, seed, range(done, inputs)))
        process.start()
        there.close()
        patience = 300.0  # imports, sound files
        try:
            while done < inputs:
                if not here.poll(patience):
                    raise TimeoutError(f"hangs, killed after {patience:.0f} s")
                result = here.recv()
                if isinstance(result, Exception):
                    raise result
                yield result
                done, patience = result.number + 1, 3 * LIMIT_S
        except (EOFError, TimeoutError) as error:
            process.kill()
            process.join()
            detail = str(error) or f"the process died (exit code {process.exitcode})"
            yield Result(done, FAILURE, detail, patience, 0.0)
            done += 1
        process.join()


def fuzz(name: str, seed: int, inputs: int) -> dict[str, Any]:
    """The row of a reader; failures are printed, one of each sort."""
    kinds: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    slowest = peak = 0.0
    for result in results_of(name, seed, inputs):
        kinds[result.kind] += 1
        slowest, peak = max(slowest, result.seconds), max(peak, result.peak_mb)
        if result.kind == FAILURE:
            sort = result.detail.split(":")[0] + result.detail.split(":")[1][:40] if ":" in result.detail else ""
            shown[sort] += 1
            if shown[sort] == 1:
                click.echo(f"  --reader {name} --seed {seed} --input {result.number}: {result.detail}")
    classes = {kind: count for kind, count in sorted(kinds.items()) if kind not in ("accepted", FAILURE)}
    return {
        "reader": name, "inputs": inputs, "accepted": kinds["accepted"], "refused": sum(classes.values()),
        "failures": kinds[FAILURE], "refused_by": " ".join(f"{kind} {count}" for kind, count in classes.items()),
        "slowest_ms": round(slowest * 1000), "peak_mb": round(peak, 1),
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--inputs", type=click.IntRange(min=1), default=10_000, show_default=True, help="of each reader")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--reader", "names", type=click.Choice(list(READERS)), multiple=True, help="default: all")
@click.option("--input", "number", type=int, help="read this input alone and show it")
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write")
def main(inputs: int, seed: int, names: tuple[str, ...], number: int | None, out: Path | None) -> None:
    names = names or tuple(READERS)
    if number is not None:
        signal.signal(signal.SIGALRM, _raise_too_long)
        with tempfile.TemporaryDirectory() as folder:
            click.echo(Bench(names[0], Path(folder)).attempt(seed, number, show=True))
        return
    rows = {}
    for name in names:
        rows[name] = fuzz(name, seed, inputs)
        click.echo(", ".join(f"{key} {value}" for key, value in rows[name].items()))
    if out is not None:
        kept = pd.read_csv(out).set_index("reader", drop=False).to_dict("index") if out.exists() else {}
        merged = {**kept, **rows}
        pd.DataFrame([merged[name] for name in READERS if name in merged]).to_csv(out, index=False)
    if any(row["failures"] for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
