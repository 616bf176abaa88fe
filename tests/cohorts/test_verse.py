"""Laws of the VerSe adapter: every style is found, patients stay whole, centroids fit, what was written comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from vertfrac import tables
from vertfrac.cohorts.folds import published_split
from vertfrac.cohorts.from_mask import MaskVertebra, measure_mask
from vertfrac.cohorts.phantom import make_phantom
from vertfrac.cohorts.phantom.verse import write_verse
from vertfrac.cohorts.sources import Scan, list_scans
from vertfrac.cohorts.verse import adapter
from vertfrac.cohorts.verse.centroids import check_centroids, oriented, read_centroids
from vertfrac.cohorts.verse.files import find_series, identity
from vertfrac.cohorts.verse.grades import level_of, read_grades
from vertfrac.errors import AnnotationError, CohortError, ExcludedError
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import centers, heights

SHARED = Path(__file__).parents[3] / "shared" / "data"
MANIFEST = SHARED / "verse19" / "verse19_manifest.csv"
VERSE004 = SHARED / "verse004"

SUBJECT_BASED = """
dataset-verse19training/rawdata/sub-verse004/sub-verse004_ct.nii.gz
dataset-verse19training/rawdata/sub-verse004/sub-verse004_ct.json
dataset-verse19training/derivatives/sub-verse004/sub-verse004_seg-vert_msk.nii.gz
dataset-verse19training/derivatives/sub-verse004/sub-verse004_seg-vb_ctd.json
dataset-verse19training/derivatives/sub-verse004/sub-verse004_seg-vert_snp.png
dataset-verse19test/rawdata/sub-verse405/sub-verse405_split-verse258_ct.nii
dataset-verse19test/derivatives/sub-verse405/sub-verse405_split-verse258_seg-vert_msk.nii
dataset-verse19test/rawdata/sub-verse405/sub-verse405_split-verse259_ct.nii
dataset-verse19test/derivatives/sub-verse405/sub-verse405_split-verse259_seg-vert_msk.nii
dataset-verse20validation/dataset-02validation/rawdata/sub-gl003/sub-gl003_dir-ax_ct.nii.gz
dataset-verse20validation/dataset-02validation/derivatives/sub-gl003/sub-gl003_dir-ax_seg-vert_msk.nii.gz
dataset-verse20validation/dataset-02validation/derivatives/sub-gl003/sub-gl003_dir-ax_seg-subreg_ctd.json
"""
FLAT = """
readme.txt
verse19/training/verse004.nii.gz
verse19/training/verse004_seg.nii.gz
verse19/training/verse004_ctd.json
verse19/training/verse004_snapshot.png
VerSe2020/02_validation/GL017/GL017_CT_ax.nii.gz
VerSe2020/02_validation/GL017/GL017_CT_ax_seg.nii.gz
VerSe2020/02_validation/GL017/GL017_CT_ax_iso-ctd.json
VerSe2020/02_validation/GL017/GL017_CT_ax-w.png
VerSe2020/03_test/verse400/verse400_verse090_CT-iso.nii.gz
VerSe2020/03_test/verse400/verse400_verse090_CT-iso_seg.nii.gz
"""


def _touch(root: Path, names: str) -> Path:
    for name in names.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _scan_files(part: str, stem: str) -> str:
    subject = stem.split("_")[0]
    return f"{part}/rawdata/{subject}/{stem}_ct.nii.gz {part}/derivatives/{subject}/{stem}_seg-vert_msk.nii.gz "


def _listed(root: Path, **settings: Any) -> dict[str, Scan]:
    return {scan.case: scan for scan in list_scans("verse", {"folder": str(root), **settings})}


def test_the_subject_based_style_is_found(tmp_path: Path) -> None:
    found = _listed(_touch(tmp_path, SUBJECT_BASED))
    assert {name: (scan.patient, scan.split, len(scan.files)) for name, scan in found.items()} == {
        "sub-verse004": ("verse004", "train", 3),
        "sub-verse405_split-verse258": ("verse405", "test", 2),
        "sub-verse405_split-verse259": ("verse405", "test", 2),
        "sub-gl003_dir-ax": ("gl003", "validation", 3),
    }


def test_the_flat_style_is_found(tmp_path: Path) -> None:
    found = _listed(_touch(tmp_path, FLAT))
    assert {name: (scan.patient, scan.split, len(scan.files)) for name, scan in found.items()} == {
        "verse004": ("verse004", "train", 3),
        "GL017_CT_ax": ("gl017", "validation", 3),
        "verse400_verse090_CT-iso": ("verse400", "test", 2),
    }


@pytest.mark.parametrize("names", [SUBJECT_BASED, FLAT])
def test_every_part_alone_is_found_too(tmp_path: Path, names: str) -> None:
    for series in find_series(_touch(tmp_path, names)):
        alone = {one.name: one.part for one in find_series(series.tree)}
        assert alone[series.name] == series.part


def test_scans_in_no_part_have_no_split_if_there_are_no_parts_at_all(tmp_path: Path) -> None:
    found = _listed(
        _touch(tmp_path / "mine", "verse004.nii.gz verse004_seg.nii.gz verse005.nii.gz verse005_seg.nii.gz")
    )
    assert {name: scan.split for name, scan in found.items()} == {"verse004": "", "verse005": ""}


def test_only_the_parts_asked_for_are_listed(tmp_path: Path) -> None:
    root = _touch(tmp_path, SUBJECT_BASED)
    assert set(_listed(root, parts=["test"])) == {"sub-verse405_split-verse258", "sub-verse405_split-verse259"}


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    _touch(tmp_path / "disk", FLAT)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "disk")
    assert len(_listed(tmp_path / "root")) == 3


@pytest.mark.parametrize("later", ["dataset-verse20training", "dataset-verse20test"])
def test_a_scan_in_both_releases_is_read_once_from_the_later_one(tmp_path: Path, later: str) -> None:
    both = _scan_files("dataset-verse19training", "sub-verse004") + _scan_files(later, "sub-verse004_dir-sag")
    found = _listed(_touch(tmp_path, both))
    assert set(found) == {"sub-verse004", "sub-verse004_dir-sag"}
    assert {scan.patient for scan in found.values()} == {"verse004"}
    with pytest.raises(ExcludedError, match=r"verse19training/.*_ct\.nii\.gz: the same scan as .*verse20"):
        found["sub-verse004"].read()


def test_scans_of_one_name_in_both_releases_keep_a_row_each(tmp_path: Path) -> None:
    both = _scan_files("dataset-verse19training", "sub-verse004") + _scan_files(
        "dataset-verse20training", "sub-verse004"
    )
    assert set(_listed(_touch(tmp_path, both))) == {"sub-verse004", "sub-verse004_dataset-verse19training"}


def test_the_complete_scan_goes_before_the_later_one(tmp_path: Path) -> None:
    names = (
        _scan_files("dataset-verse19test", "sub-verse008")
        + _scan_files("dataset-verse20test", "sub-verse008").split()[0]
    )
    found = _listed(_touch(tmp_path, names))
    with pytest.raises(ExcludedError, match=r"verse20test.*the same scan as .*verse19test"):
        found["sub-verse008_dataset-verse20test"].read()


def _cases(found: dict[str, Scan]) -> pd.DataFrame:
    """The table CASES as if every scan could be used."""
    return tables.CASES.frame(
        {"case": s.case, "patient": s.patient, "split": s.split, "status": "ok", "smallest_genant": 0.9}
        for s in found.values()
    )


def test_a_patient_keeps_the_part_of_the_later_release(tmp_path: Path) -> None:
    names = _scan_files("dataset-verse19training", "sub-verse401_split-verse201")
    names += _scan_files("dataset-verse20test", "sub-verse401_split-verse253")
    names += _scan_files("dataset-verse19training", "sub-verse004")
    found = _listed(_touch(tmp_path, names))
    assert found["sub-verse401_split-verse201"].split == ""
    assert found["sub-verse401_split-verse253"].split == "test"
    folds = published_split(_cases(found), held_out="test")
    assert set(folds["case"]) == {"sub-verse004", "sub-verse401_split-verse253"}


def test_a_patient_in_two_parts_of_one_release_is_named_by_the_split(tmp_path: Path) -> None:
    names = _scan_files("dataset-verse19training", "sub-verse401_split-verse201")
    names += _scan_files("dataset-verse19test", "sub-verse401_split-verse253")
    with pytest.raises(CohortError, match="patient verse401 is in the parts train and test"):
        published_split(_cases(_listed(_touch(tmp_path, names))), held_out="test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15", "verse015"), ("15.0", "verse015"), ("verse15", "verse015"), ("sub-verse015", "verse015"),
        ("sub-verse405_split-verse258", "verse258"), ("GL003", "gl003"), ("ward-7", None), ("", None),
    ],
)  # fmt: skip
def test_a_scan_is_known_by_its_number(text: str, expected: str | None) -> None:
    assert identity(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("T12", "T12"), ("Th7", "T7"), ("l1", "L1"), ("19", "T12"), ("28", "T13"), ("T14", None), ("", None)],
)
def test_levels_are_read_in_every_spelling(text: str, expected: str | None) -> None:
    assert level_of(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "scan_id,vertebra,genant_grade\nverse15,T12,2\nverse15,L1,0\nverse258,L1,3\n",
        "patient_id,scan_id,vertebra,genant_grade,split\nsub-verse015,verse15,Th12,2,x\n,15,20,0.0,\nsub-verse405,258,L1,3,\n",
        "verse_ID,subject_ID,N_Fx,T11_fx-g,T12_fx-g,L1_fx-g\n15,15,1,,2,0\n258,405,1,,,3\n",
        "\ufeffverse_ID;subject_ID;T12_fx-g;L1_fx-g\r\n15;15;2;0\r\n258;405;;3\r\n;;;\r\n",
    ],
)
def test_every_form_of_the_table_of_grades_says_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grades.csv"
    path.write_text(text, encoding="utf-8")
    found = read_grades(path)
    assert {name: of.grades for name, of in found.items()} == {"verse015": {"T12": 2, "L1": 0}, "verse258": {"L1": 3}}
    assert not any(of.faults for of in found.values())
    assert found["verse258"].patient in ("verse405", "")


def test_the_table_of_grades_knows_the_patient_of_a_flat_scan(tmp_path: Path) -> None:
    _touch(tmp_path, "training/verse258.nii.gz training/verse258_seg.nii.gz")
    (tmp_path / "grades.csv").write_text("patient_id,scan_id,vertebra,genant_grade\nsub-verse405,verse258,L1,0\n")
    assert _listed(tmp_path, grades=str(tmp_path / "grades.csv"))["verse258"].patient == "verse405"


def test_a_scan_depends_on_the_table_of_grades(tmp_path: Path) -> None:
    _touch(tmp_path, FLAT)
    path = tmp_path / "grades.csv"
    path.write_text("scan_id,vertebra,genant_grade\nverse004,L1,0\n")
    before = _listed(tmp_path, grades=str(path))
    path.write_text("scan_id,vertebra,genant_grade\nverse004,L1,2\n")
    after = _listed(tmp_path, grades=str(path))
    assert {name for name in before if before[name].listed != after[name].listed} == {"verse004"}


@pytest.mark.skipif(not MANIFEST.is_file(), reason=f"the public table of grades is not at {MANIFEST}")
def test_the_public_table_is_read_whole() -> None:
    found = read_grades(MANIFEST)
    published = pd.read_csv(MANIFEST)
    assert not any(of.faults for of in found.values())
    assert sum(len(of.grades) for of in found.values()) == len(published) == 1129
    assert found["verse258"].patient == found["verse259"].patient == "verse405"
    counted = pd.Series([g for of in found.values() for g in of.grades.values()]).value_counts().to_dict()
    assert counted == published["genant_grade"].value_counts().to_dict()


STORED = [("R", "A", "S"), ("P", "I", "R"), ("L", "P", "S"), ("I", "R", "A")]


@pytest.mark.parametrize("axes", STORED)
def test_turning_a_grid_keeps_every_voxel_in_its_place(axes: tuple[str, str, str]) -> None:
    grid = Grid((4, 5, 6), np.array([[-1.0, 0, 0, 7], [0, 0, 2, -3], [0, 3, 0.1, 5], [0, 0, 0, 1]]))
    turned = oriented(grid, axes)
    assert nib.orientations.aff2axcodes(turned.world_from_index) == axes
    here, there = (np.stack([f.to_world(i) for i in np.ndindex(f.shape)]).round(6) for f in (grid, turned))
    assert {tuple(p) for p in here} == {tuple(p) for p in there}


@pytest.mark.parametrize("form", ["voxels", "mm"])
@pytest.mark.parametrize("direction", [*STORED, None])
@pytest.mark.parametrize("moved_mm", [0.0, 60.0])
def test_centroids_fit_in_every_form_and_only_where_they_belong(
    tmp_path: Path, lumbar_masks: Any, form: str, direction: tuple[str, str, str] | None, moved_mm: float
) -> None:
    grid = Grid(lumbar_masks.labels.shape, lumbar_masks.affine)
    labels = lumbar_masks.labels
    turned = oriented(grid, direction or ("P", "I", "R"))
    scale = turned.spacing_mm if form == "mm" else np.ones(3)
    points = [
        turned.to_index(centers(v.keypoints) + np.array([0, moved_mm, 0])) * scale for v in lumbar_masks.vertebrae
    ]
    entries: list[Any] = [{"direction": list(direction)}] if direction else []
    entries += [{"label": n, "X": x, "Y": y, "Z": z} for n, (x, y, z) in zip((20, 21, 22), points, strict=True)]
    path = tmp_path / "ctd.json"
    path.write_text(json.dumps(entries))
    if moved_mm:
        with pytest.raises(AnnotationError, match=r"ctd\.json: the centroid of L\d \(label 2\d\) lies"):
            check_centroids(read_centroids(path), labels, grid, 15.0)
    else:
        assert check_centroids(read_centroids(path), labels, grid, 15.0) == []


def test_a_centroid_that_is_nan_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ctd.json"
    path.write_text('[{"label": 20, "X": NaN, "Y": NaN, "Z": NaN}, {"label": 21, "X": 1, "Y": 2, "Z": 3}]')
    assert set(read_centroids(path).points) == {21}


@pytest.fixture
def lumbar(tmp_path: Path, lumbar_masks: Any, save_nifti: Callable[..., Path]) -> Path:
    """A folder with one scan whose mask is that of L1 to L3, without centroids."""
    hu = np.where(lumbar_masks.labels > 0, 400, -100).astype(np.int16)
    save_nifti(tmp_path / "test" / "verse001.nii.gz", hu, lumbar_masks.affine)
    save_nifti(tmp_path / "test" / "verse001_seg.nii.gz", lumbar_masks.labels, lumbar_masks.affine)
    return tmp_path


def test_keypoints_are_those_of_the_mask_and_grades_those_of_the_table(lumbar: Path, lumbar_masks: Any) -> None:
    path = lumbar / "grades.csv"
    path.write_text("scan_id,vertebra,genant_grade\nverse001,L1,3\nverse001,L2,0\nverse001,T9,1\n")
    image, rows = _listed(lumbar, grades=str(path))["verse001"].read()
    expected = measure_mask(lumbar_masks.labels, Grid(lumbar_masks.labels.shape, lumbar_masks.affine))
    assert np.allclose(tables.keypoints_of(rows), [v.keypoints for v in expected], atol=0.02)
    assert rows["level"].tolist() == ["L1", "L2", "L3"]
    assert rows["grade"].fillna(-1).tolist() == [3, 0, -1]
    assert set(rows["expert"]) == {"mask"}
    assert "graded, but without keypoints: T9 (1)" in image.warnings


def test_doubtful_and_outlying_vertebrae_are_left_out_with_the_reason(
    lumbar: Path, lumbar_masks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = [v.keypoints for v in lumbar_masks.vertebrae]
    found = [
        MaskVertebra(20, "L1", "ok", truth[0], "good"),
        MaskVertebra(21, "L2", "ok", truth[1], "doubtful", "no closed canal"),
        MaskVertebra(22, "L3", "ok", truth[2], "good"),
        MaskVertebra(23, "L4", "ok", truth[2] - [0, 0, 40], "good"),
        MaskVertebra(24, "L5", "cut", np.full((6, 3), np.nan), "", "the body reaches the edge of the image"),
    ]
    monkeypatch.setattr(adapter, "measure_mask", lambda *_: found)
    image, rows = _listed(lumbar)["verse001"].read()
    assert rows["level"].tolist() == ["L1", "L3"]
    assert rows["vertebra"].tolist() == [1, 2]
    for words in ("L2 (no closed canal)", "L4 (a keypoint lies outside the image)", "L5 (the body reaches the edge"):
        assert any(f"no keypoints of {words}" in warning for warning in image.warnings)
    image, rows = _listed(lumbar, keep_doubtful=True)["verse001"].read()
    assert rows["level"].tolist() == ["L1", "L2", "L3"]
    assert "doubtful keypoints of L2 (no closed canal)" in image.warnings


def test_subregions_are_used_where_they_are(lumbar: Path, lumbar_masks: Any, save_nifti: Callable[..., Path]) -> None:
    save_nifti(lumbar / "test" / "verse001_seg-subreg_msk.nii.gz", lumbar_masks.subregions, lumbar_masks.affine)
    _, rows = _listed(lumbar)["verse001"].read()
    grid = Grid(lumbar_masks.labels.shape, lumbar_masks.affine)
    expected = measure_mask(lumbar_masks.labels, grid, lumbar_masks.subregions)
    assert np.allclose(tables.keypoints_of(rows), [v.keypoints for v in expected], atol=0.02)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two phantoms written in both styles, with their exact keypoints."""
    root = tmp_path_factory.mktemp("phantoms")
    for style in ("bids", "flat"):
        write_verse(root / style, cases=2, seed=229, flat=style == "flat", keypoints=True, subregions=True)
    return {style: root / style for style in ("bids", "flat")}


@pytest.mark.parametrize("style", ["bids", "flat"])
def test_phantoms_come_back_exactly_with_their_keypoints(written: dict[str, Path], style: str) -> None:
    found = _listed(written[style], grades=str(written[style] / "grades.csv"))
    assert [scan.split for scan in found.values()] == ["train", "validation"]
    for index, scan in enumerate(found.values()):
        phantom = make_phantom(229, index)
        image, rows = scan.read()
        truth = np.stack([v.keypoints for v in phantom.vertebrae])
        assert np.linalg.norm(tables.keypoints_of(rows) - truth, axis=-1).max() < 0.1
        assert rows["level"].tolist() == [v.level for v in phantom.vertebrae]
        assert rows["grade"].tolist() == grade(genant_index(heights(truth))).tolist()
        assert image.hu.size == phantom.hu.size


@pytest.mark.parametrize("style", ["bids", "flat"])
def test_masks_and_centroids_of_phantoms_agree(written: dict[str, Path], style: str) -> None:
    for series in find_series(written[style]):
        mask = nib.load(series.files["mask"][0])
        assert set(series.files) == {"ct", "mask", "subregions", "centroids", "keypoints"}
        grid = Grid(mask.shape, mask.affine)
        remarks = check_centroids(read_centroids(series.files["centroids"][0]), np.asarray(mask.dataobj), grid, 3.0)
        assert not any("without a label" in remark for remark in remarks)


def test_phantoms_in_shards_are_the_same_cohort(written: dict[str, Path], tmp_path: Path) -> None:
    write_verse(tmp_path, cases=2, seed=229, shard=(1, 2), keypoints=True)
    assert [series.name for series in find_series(tmp_path)] == ["sub-verse002"]
    whole, part = (pd.read_csv(folder / "grades.csv") for folder in (written["bids"], tmp_path))
    pd.testing.assert_frame_equal(whole[whole["scan_id"] == "verse002"].reset_index(drop=True), part)


@pytest.mark.skipif(not VERSE004.is_dir(), reason=f"the real series is not at {VERSE004}")
def test_the_real_mask_gives_the_vertebrae_of_its_spine(tmp_path: Path) -> None:
    mask = nib.load(VERSE004 / "sub-verse004_seg-vert_msk.nii.gz")
    derived, raw = (tmp_path / "training" / name / "sub-verse004" for name in ("derivatives", "rawdata"))
    derived.mkdir(parents=True)
    raw.mkdir(parents=True)
    for path in VERSE004.iterdir():
        (derived / path.name).symlink_to(path)
    bone = np.where(np.asarray(mask.dataobj) > 0, 400, -100).astype(np.int16)
    nib.save(nib.Nifti1Image(bone, mask.affine), raw / "sub-verse004_ct.nii.gz")
    image, rows = _listed(tmp_path)["sub-verse004"].read()
    assert rows["level"].tolist() == ["T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    assert image.warnings == ()
    index = genant_index(heights(tables.keypoints_of(rows)))
    assert index[4] == index.min()  # L1, the only one with grade 3
    assert index[4] <= 0.6
