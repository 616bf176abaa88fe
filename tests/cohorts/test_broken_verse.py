"""What is wrong with one scan of VerSe fails that scan alone: its row has a status and a reason that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vertfrac.cohorts.ingest import ingest
from vertfrac.cohorts.sources import list_scans
from vertfrac.errors import CohortError, TableError
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers

LABELS = {"L1": 20, "L2": 21, "L3": 22}


class Scan:
    """The files of one sound scan, subject-based, and what can be done to them."""

    def __init__(self, tree: Path, number: int, spine: Any, save: Callable[..., Path]) -> None:
        self.spine, self.save, self.tree = spine, save, tree
        self.stem = f"sub-verse{number:03d}"
        self.derived = tree / "derivatives" / self.stem
        self.ct = tree / "rawdata" / self.stem / f"{self.stem}_ct.nii.gz"
        self.mask = self.derived / f"{self.stem}_seg-vert_msk.nii.gz"
        self.parts = self.derived / f"{self.stem}_seg-subreg_msk.nii.gz"
        self.centroids = self.derived / f"{self.stem}_seg-subreg_ctd.json"
        self.keypoints = self.derived / f"{self.stem}_seg-vert_kpt.csv"
        self.write_ct(slice(None))
        self.write_mask(spine.labels)
        grid = Grid(spine.labels.shape, spine.affine)
        points = {LABELS[v.level]: grid.to_index(centers(v.keypoints)).round(1).tolist() for v in spine.vertebrae}
        self.entries: list[Any] = [{"direction": ["R", "A", "S"]}]
        self.entries += [{"label": label, "X": x, "Y": y, "Z": z} for label, (x, y, z) in points.items()]
        self.write_centroids(self.entries)

    def write_ct(self, levels: slice) -> None:
        hu = np.where(self.spine.labels > 0, 400, -100).astype(np.int16)
        self.save(self.ct, hu[:, :, levels], self._affine(levels))

    def write_mask(self, values: Any, levels: slice = slice(None), shift_mm: float = 0.0) -> None:
        self.save(self.mask, values[:, :, levels], self._affine(levels, shift_mm))

    def _affine(self, levels: slice, shift_mm: float = 0.0) -> Any:
        affine = self.spine.affine.copy()
        affine[2, 3] += (levels.start or 0) * affine[2, 2] + shift_mm
        return affine

    def write_centroids(self, content: Any) -> None:
        self.centroids.write_text(json.dumps(content))

    def relabel(self, numbers: dict[int, int]) -> None:
        known = np.zeros(256, dtype=np.int16)
        known[list(numbers)] = list(numbers.values())
        self.write_mask(known[self.spine.labels])
        self.centroids.unlink()

    def cut_all(self) -> None:
        """Leave slices from the middle of L2 only, with nothing of the endplates of any vertebra."""
        planes = np.flatnonzero((self.spine.labels == 21).any(axis=(0, 1)))
        middle = int(planes.mean())
        levels = slice(middle - 3, middle + 4)
        self.write_ct(levels)
        self.write_mask(self.spine.labels, levels)
        self.centroids.unlink()


def _rename(path: Path, ending: str) -> None:
    path.rename(path.with_name(path.name.removesuffix(".nii.gz") + ending))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _fractions(scan: Scan) -> None:
    scan.write_mask(scan.spine.labels + np.float32(0.25))


def _move(scan: Scan, label: int, mm: float) -> None:
    scan.write_centroids([e | {"X": e["X"] + mm / 1.25} if e.get("label") == label else e for e in scan.entries])


def _foreign_keypoints(scan: Scan) -> None:
    scan.keypoints.write_text("case,vertebra\nother,1\n")


def _keypoints_of_another(scan: Scan) -> None:
    from vertfrac import tables

    row = {"case": "other", "vertebra": 1, **tables.keypoint_values(scan.spine.vertebrae[0].keypoints)}
    tables.write_csv(scan.keypoints, tables.ANNOTATIONS.frame([row]))


def _to_unknown_part(scan: Scan) -> None:
    elsewhere = scan.tree.parent / "dataset-verse19holdout"
    for path in (scan.ct, *scan.derived.iterdir()):
        target = elsewhere / path.relative_to(scan.tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def _again_in_the_other_release(scan: Scan) -> None:
    elsewhere = scan.tree.parent / "dataset-verse20test"
    elsewhere.mkdir()
    for path in (scan.ct, scan.mask, scan.centroids):
        shutil.copy(path, elsewhere / path.name.replace("sub-", "").replace("_seg-vert_msk", "_seg"))
    scan.mask.unlink()  # the other one is complete, this one is not


FAILED: dict[str, tuple[Callable[[Scan], Any], str]] = {
    "no mask": (lambda s: s.mask.unlink(), r"_ct\.nii\.gz: no vertebra mask of sub-verse\d+ \(found "),
    "no CT": (lambda s: s.ct.unlink(), r"_ctd\.json: no CT scan of sub-verse\d+ \(found "),
    "two masks": (lambda s: shutil.copy(s.mask, str(s.mask)[:-3]), r"is a second vertebra mask of sub-verse"),
    "mask of another grid": (
        lambda s: s.write_mask(s.spine.labels, shift_mm=5),
        r"_msk\.nii\.gz: lies 5\.0 mm beside .*_ct",
    ),
    "mask of another size": (
        lambda s: s.write_mask(s.spine.labels, slice(3, None)),
        r"_msk\.nii\.gz: found shape .*expected",
    ),
    "swapped axes": (
        lambda s: s.write_mask(s.spine.labels.transpose(1, 0, 2)),
        r"_msk\.nii\.gz: found shape .*the grid of .*_ct",
    ),
    "label 0 only": (lambda s: s.write_mask(s.spine.labels * 0), r"_msk\.nii\.gz: found no label but 0"),
    "non-integer mask": (_fractions, r"_msk\.nii\.gz: \d+ voxels are not integer, such as"),
    "NaN in the mask": (
        lambda s: s.write_mask(np.where(s.spine.labels == 20, np.nan, 1.0)),
        r"_msk\.nii\.gz: voxels are NaN",
    ),
    "label 99": (lambda s: s.relabel({20: 20, 21: 21, 22: 99}), r"_msk\.nii\.gz: found unknown labels 99"),
    "negative labels": (lambda s: s.relabel({20: -3, 21: 21, 22: 22}), r"_msk\.nii\.gz: found labels from -3"),
    "mask of zero bytes": (lambda s: s.mask.write_bytes(b""), r"_msk\.nii\.gz: empty file"),
    "truncated mask": (lambda s: _truncate(s.mask), r"_msk\.nii\.gz: truncated"),
    "mask with a wrong extension": (lambda s: _rename(s.mask, ".mha"), r"_msk\.mha: not NIfTI by name"),
    "empty JSON": (lambda s: s.centroids.write_text(""), r"_ctd\.json: not valid JSON"),
    "JSON without centroids": (lambda s: s.write_centroids(s.entries[:1]), r"_ctd\.json: holds no centroid"),
    "JSON of another form": (
        lambda s: s.write_centroids({"20": {"50": [1, 2, 3]}}),
        r"_ctd\.json: found a dict of another form",
    ),
    "centroid without Z": (
        lambda s: s.write_centroids([{"label": 20, "X": 1, "Y": 2}]),
        r"_ctd\.json: found an entry with",
    ),
    "centroid of no vertebra": (
        lambda s: s.write_centroids([{"label": 99, "X": 1, "Y": 2, "Z": 3}]),
        r"_ctd\.json: label is 99",
    ),
    "centroid twice": (lambda s: s.write_centroids([*s.entries, s.entries[1]]), r"_ctd\.json: label 20 occurs twice"),
    "centroids of other labels": (
        lambda s: s.write_centroids([e | {"label": 3} if "label" in e else e for e in s.entries[:2]]),
        r"_ctd\.json: found centroids of the labels 3, expected the mask's 20, 21, 22",
    ),
    "centroid far from its label": (
        lambda s: _move(s, 21, 70),
        r"_ctd\.json: the centroid of L2 \(label 21\) lies \d\d mm from",
    ),
    "unknown direction": (
        lambda s: s.write_centroids([{"direction": ["P", "I", "X"]}, *s.entries[1:]]),
        r"_ctd\.json: direction is \['P', 'I', 'X'\], expected three axes",
    ),
    "direction with an axis twice": (
        lambda s: s.write_centroids([{"direction": ["P", "A", "R"]}, *s.entries[1:]]),
        r"_ctd\.json: direction is",
    ),
    "truncated CT": (lambda s: _truncate(s.ct), r"_ct\.nii\.gz: truncated"),
    "CT of zero bytes": (lambda s: s.ct.write_bytes(b""), r"_ct\.nii\.gz: empty file"),
    "CT with a wrong extension": (lambda s: _rename(s.ct, ".nrrd"), r"_ct\.nrrd: neither NIfTI by name"),
    "CT that is a text": (lambda s: s.ct.write_text("moved to the archive"), r"_ct\.nii\.gz: not gzip data"),
    "subregions of another grid": (
        lambda s: s.save(s.parts, s.spine.subregions[:-2], s.spine.affine),
        r"_seg-subreg_msk\.nii\.gz: found shape",
    ),
    "subregions without a body": (
        lambda s: s.save(s.parts, (s.spine.labels > 0).astype(np.uint8), s.spine.affine),
        r"_seg-subreg_msk\.nii\.gz: found the codes \[0, 1\], expected 49",
    ),
    "keypoints of another case": (_keypoints_of_another, r"_kpt\.csv: found other in column case, expected sub-verse"),
    "keypoints without coordinates": (_foreign_keypoints, r"_kpt\.csv: column anterior_superior_x is missing"),
    "unknown part folder": (_to_unknown_part, r"dataset-verse19holdout: folder of no part, expected .*_ct\.nii\.gz"),
}
"""What is wrong -> how a sound scan gets it, and the words that its reason must hold."""

EXCLUDED: dict[str, tuple[Callable[[Scan], Any], str]] = {
    "one vertebra only": (
        lambda s: s.relabel({21: 21}),
        r"_msk\.nii\.gz: keypoints of 1 of 1 vertebrae, expected at least two",
    ),
    "all vertebrae cut": (
        lambda s: s.cut_all(),
        r"_msk\.nii\.gz: keypoints of 0 of 3 .*L2 \(.*at the edge of the image",
    ),
    "the atlas and the axis alone": (
        lambda s: s.relabel({20: 1, 21: 2}),
        r"_msk\.nii\.gz: keypoints of 0 of 2 .*C1 \(C1 has no vertebral body\); C2",
    ),
    "the same scan in the later release": (
        _again_in_the_other_release,
        r"_ct\.nii\.gz: the same scan as .*dataset-verse20test",
    ),
}
"""The same for scans that are sound, but hold nothing to train on or to score, or are there twice."""

GRADES: dict[str, tuple[list[tuple[str, object]], str]] = {
    "grade 7": ([("L1", 7)], r"grades\.csv: line \d+: grade of L1 is '7', expected 0, 1, 2 or 3"),
    "no grade": ([("L1", 0), ("L2", "")], r"grades\.csv: line \d+: grade of L2 is ''"),
    "negative grade": ([("L2", -1)], r"grades\.csv: line \d+: grade of L2 is '-1'"),
    "two rows for one vertebra": ([("L1", 0), ("L1", 0)], r"grades\.csv: line \d+: a second grade of L1"),
    "grade of no vertebra": ([("X9", 0)], r"grades\.csv: line \d+: vertebra is 'X9', expected a level such as T12"),
}
"""What is wrong with the rows of a sound scan in the table of grades, and the words of its reason."""

WORDS = {what: words for table in (FAILED, EXCLUDED, GRADES) for what, (_, words) in table.items()}
WORDS["grades of an unknown case"] = r"grades\.csv: grades of verse999, of which .* holds no scan"
NUMBER = {what: number for number, what in enumerate(WORDS, start=101)} | {"grades of an unknown case": 999}


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory, lumbar_masks: Any, save_nifti: Callable[..., Path]
) -> pd.DataFrame:
    """Table CASES, by number, of one good scan (100) and one with every fault."""
    root = tmp_path_factory.mktemp("verse")
    tree = root / "dataset-verse19training"
    Scan(tree, 100, lumbar_masks, save_nifti)
    rows: list[tuple[str, str, object]] = [("verse100", "L1", 2), ("verse999", "L1", 0)]
    for what, number in NUMBER.items():
        if what == "grades of an unknown case":
            continue
        scan = Scan(tree, number, lumbar_masks, save_nifti)
        for table in (FAILED, EXCLUDED):
            if what in table:
                table[what][0](scan)
        if what in GRADES:
            rows += [(f"verse{number}", level, grade) for level, grade in GRADES[what][0]]
    table = pd.DataFrame(rows, columns=["scan_id", "vertebra", "genant_grade"])
    table.to_csv(root / "grades.csv", index=False)
    settings = {"folder": str(root), "grades": str(root / "grades.csv")}
    cases = ingest(list_scans("verse", settings), root / "out")
    return cases.assign(number=cases["case"].str.extract(r"(\d{3})", expand=False).astype(int)).set_index("number")


def test_the_good_case_stays_good(cohort: pd.DataFrame) -> None:
    row = cohort.loc[100]
    assert (row["status"], row["reason"], row["vertebrae"], row["split"]) == ("ok", "", 3, "train")


@pytest.mark.parametrize("what", WORDS)
def test_a_broken_case_has_a_row_with_status_and_reason(cohort: pd.DataFrame, what: str) -> None:
    rows = cohort.loc[[NUMBER[what]]]
    broken = rows[rows["status"] != "ok"]
    assert len(broken) == 1, rows["reason"].tolist()
    row = broken.iloc[0]
    assert pd.Series([row["reason"]]).str.contains(WORDS[what], regex=True).all(), row["reason"]
    assert "\n" not in row["reason"]
    excluded = what in EXCLUDED or what == "grades of an unknown case"
    assert row["status"] == ("excluded" if excluded else "failed")


def test_every_scan_has_a_row_and_nothing_else_is_used(cohort: pd.DataFrame) -> None:
    assert set(cohort.index) == {100, *NUMBER.values()}
    used = cohort[cohort["status"] == "ok"]
    assert set(used.index) == {100, NUMBER["the same scan in the later release"]}
    assert used["image"].ne("").all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scan,bone,severity\n1,L1,0\n", "found the columns scan, bone, severity, expected scan_id"),
        ("", "not a CSV table"),
        ("scan_id,vertebra,genant_grade\n,L1,0\n", "line 2 has no scan_id"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_is_none_stops_the_cohort(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "grades.csv").write_text(text)
    with pytest.raises(TableError, match=rf"grades\.csv: {words}"):
        list_scans("verse", {"folder": str(tmp_path), "grades": str(tmp_path / "grades.csv")})


def test_a_missing_folder_and_one_without_verse_are_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="nowhere: no such folder"):
        list_scans("verse", {"folder": str(tmp_path / "nowhere")})
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(CohortError, match="found no case"):
        list_scans("verse", {"folder": str(tmp_path)})
