"""Laws of the phantom cohort: determinism, exact keypoints, fracture shares, storage orders, written files."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from vertfrac.cohorts.phantom import Phantom, make_masks, make_phantom, random_column, write_phantoms
from vertfrac.cohorts.phantom.anatomy import LEVELS, SHAPES, Column
from vertfrac.errors import ConfigError
from vertfrac.genant import genant_index
from vertfrac.geometry.keypoints import KEYPOINT_COLUMNS, heights

SEED = 3
CASES = range(3)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(SEED, i) for i in CASES]


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    return [random_column(np.random.default_rng([1, i])) for i in range(300)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort")
    write_phantoms(out, cases=2, seed=SEED)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def sample(phantom: Phantom, world: np.ndarray) -> np.ndarray:
    """HU at world points (n, 3), linear between voxels."""
    inverse = np.linalg.inv(phantom.affine)
    index = world @ inverse[:3, :3].T + inverse[:3, 3]
    return map_coordinates(phantom.hu.astype(np.float32), index.T, order=1, mode="nearest")


def test_same_seed_and_index_give_the_same_phantom(phantoms: list[Phantom]) -> None:
    again = make_phantom(SEED, 0)
    assert np.array_equal(again.hu, phantoms[0].hu)
    assert np.array_equal(again.affine, phantoms[0].affine)
    for a, b in zip(again.vertebrae, phantoms[0].vertebrae, strict=True):
        assert np.array_equal(a.keypoints, b.keypoints)


def test_other_index_and_other_seed_give_other_phantoms(phantoms: list[Phantom]) -> None:
    affines = [tuple(p.affine.ravel()) for p in phantoms] + [tuple(make_phantom(SEED + 1, 0).affine.ravel())]
    assert len(set(affines)) == len(affines)


def test_shape_of_a_phantom(phantoms: list[Phantom]) -> None:
    for number, phantom in enumerate(phantoms, start=1):
        assert phantom.case == f"phantom-{number:04d}"
        assert phantom.hu.dtype == np.int16
        assert phantom.hu.ndim == 3
        assert phantom.hu.max() <= 3071
        spacing = np.sort(np.linalg.norm(phantom.affine[:3, :3], axis=0))
        assert spacing[0] >= 0.8 - 1e-6
        assert spacing[-1] <= 4.0 + 1e-6
        assert 5e5 < phantom.hu.size < 1.6e7


def test_vertebrae_are_whole_inside_and_superior_first(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
        inverse = np.linalg.inv(phantom.affine)
        order = [LEVELS.index(v.level) for v in phantom.vertebrae]
        assert order
        assert order == list(range(order[0], order[0] + len(order)))
        heights_z = [v.keypoints[:, 2].mean() for v in phantom.vertebrae]
        assert np.all(np.diff(heights_z) < 0)
        for v in phantom.vertebrae:
            assert v.shape in SHAPES
            index = v.keypoints @ inverse[:3, :3].T + inverse[:3, 3]
            margin = 2.0 / spacing - 1e-6
            assert (index >= margin).all()
            assert (index <= np.array(phantom.hu.shape) - 1 - margin).all()


def test_keypoints_are_coplanar_and_in_order(columns: list[Column]) -> None:
    for column in columns[:40]:
        for v in column.vertebrae:
            points = v.keypoints
            centered = points - points.mean(axis=0)
            assert np.linalg.svd(centered)[1][2] < 1e-9
            assert points[0, 1] > points[4, 1]
            up = v.rotation[:, 2]
            assert ((points[0::2] - points[1::2]) @ up > 0).all()
            assert np.isclose(v.genant, genant_index(heights(points)))


def test_bodies_do_not_overlap(columns: list[Column]) -> None:
    gaps = [
        ((upper.keypoints[[1, 5]] - lower.keypoints[[0, 4]]) @ lower.rotation[:, 2]).min()
        for column in columns
        for upper, lower in zip(column.vertebrae, column.vertebrae[1:], strict=False)
    ]
    assert min(gaps) > 0


def test_genant_shares_of_the_population(columns: list[Column]) -> None:
    seen = [v for column in columns for v in column.visible()]
    index = np.array([v.genant for v in seen])
    normal = np.array([v.shape == "normal" for v in seen])
    assert 0.09 < (index <= 0.74).mean() < 0.18
    assert 0.05 < ((index > 0.74) & (index <= 0.8)).mean() < 0.15
    assert 0.01 < (index <= 0.6).mean() < 0.08
    assert index.min() > 0.34
    assert 0.82 < np.median(index[normal]) < 0.9
    assert (index[normal] <= 0.74).mean() < 0.01
    fractured = np.mean([any(v.shape != "normal" for v in column.vertebrae) for column in columns])
    assert 0.52 < fractured < 0.68


def test_fractures_lose_the_height_they_are_named_after(columns: list[Column]) -> None:
    lowest = {"wedge": 0, "biconcave": 1, "crush": 2}
    for column in columns:
        for v in column.vertebrae:
            if v.shape != "normal":
                h = heights(v.keypoints)
                assert h[lowest[v.shape]] == pytest.approx(h.min(), rel=2e-3)


def test_curvature_of_the_population(columns: list[Column]) -> None:
    def spread(column: Column, first: int, last: int) -> float:
        up = np.array([v.rotation[:, 2] for v in column.vertebrae[first:last]])
        return float(np.ptp(np.rad2deg(np.arctan2(up[:, 1], up[:, 2]))))

    thoracic = [spread(c, 5, 17) for c in columns]
    assert np.percentile(thoracic, 2) > 15
    assert np.percentile(thoracic, 98) < 85
    assert 0.05 < np.mean([c.cobb > 12 for c in columns]) < 0.25
    assert max(c.cobb for c in columns) <= 40


def test_bone_at_the_keypoints_and_disc_between(phantoms: list[Phantom]) -> None:
    bone, disc, rim = [], [], []
    for phantom in phantoms:
        for upper, lower in zip(phantom.vertebrae, phantom.vertebrae[1:], strict=False):
            top, bottom = upper.keypoints[2], upper.keypoints[3]
            bone.append(top + np.linspace(0.25, 0.75, 9)[:, None] * (bottom - top))
            disc.append((bottom + lower.keypoints[2])[None] / 2)
            centre = upper.keypoints.mean(axis=0)
            rim.append(upper.keypoints + 0.12 * (centre - upper.keypoints))
        inside = sample(phantom, np.concatenate(bone)).mean()
        between = sample(phantom, np.concatenate(disc)).mean()
        edge = sample(phantom, np.concatenate(rim)).mean()
        assert between < 200
        assert edge > between + 60
        assert inside > 10
        bone, disc, rim = [], [], []


@pytest.mark.parametrize("axcodes", [("R", "A", "S"), ("L", "P", "S"), ("P", "I", "R"), ("S", "L", "A")])
def test_stored_as_moves_voxels_and_affine_together(phantoms: list[Phantom], axcodes: tuple[str, str, str]) -> None:
    phantom = phantoms[0]
    other = phantom.stored_as(axcodes)
    assert nib.aff2axcodes(other.affine) == axcodes
    index = np.random.default_rng(0).integers(0, phantom.hu.shape, (200, 3))
    world = index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]
    inverse = np.linalg.inv(other.affine)
    moved = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    assert np.array_equal(other.hu[tuple(moved.T)], phantom.hu[tuple(index.T)])
    back = other.stored_as(nib.aff2axcodes(phantom.affine))
    assert np.array_equal(back.hu, phantom.hu)
    assert np.allclose(back.affine, phantom.affine)


def test_written_files_hold_the_phantoms(cohort: Path, phantoms: list[Phantom]) -> None:
    cases, annotations = rows(cohort / "cases.csv"), rows(cohort / "annotations.csv")
    assert [c["case"] for c in cases] == ["phantom-0001", "phantom-0002"]
    for case, phantom in zip(cases, phantoms, strict=False):
        assert case["patient"] == case["case"]
        image = nib.load(cohort / case["image"])
        assert np.array_equal(np.asanyarray(image.dataobj), phantom.hu)
        assert image.get_data_dtype() == np.int16
        assert np.allclose(image.affine, phantom.affine, atol=1e-3)
        assert np.allclose(image.get_qform(), phantom.affine, atol=1e-3)
        assert image.header.get_xyzt_units()[0] == "mm"
        own = [a for a in annotations if a["case"] == case["case"]]
        assert [int(a["vertebra"]) for a in own] == list(range(1, len(phantom.vertebrae) + 1))
        for line, v in zip(own, phantom.vertebrae, strict=True):
            assert (line["level"], line["shape"], line["expert"]) == (v.level, v.shape, "phantom")
            points = np.array([float(line[c]) for c in KEYPOINT_COLUMNS]).reshape(6, 3)
            assert np.allclose(points, v.keypoints, atol=1e-4)
        landmarks = {
            row["level"]: np.array([float(row[axis]) for axis in "xyz"])
            for row in rows(cohort / "landmarks.csv")
            if row["case"] == case["case"]
        }
        assert landmarks.keys() == phantom.landmarks.keys()
        assert all(np.allclose(landmarks[level], center, atol=1e-4) for level, center in phantom.landmarks.items())
    assert {p.name for p in cohort.rglob("*") if p.is_file()} == {
        "annotations.csv",
        "cases.csv",
        "landmarks.csv",
        "phantom-0001.nii.gz",
        "phantom-0002.nii.gz",
    }


def test_label_maps_agree_with_scan_and_keypoints(phantoms: list[Phantom]) -> None:
    plain, marked = phantoms[1], make_phantom(SEED, 1, labels=True)
    assert plain.labels is None
    assert plain.subregions is None
    assert np.array_equal(marked.hu, plain.hu)
    assert np.array_equal(marked.affine, plain.affine)
    assert marked.labels is not None
    assert marked.subregions is not None
    assert marked.labels.shape == marked.subregions.shape == marked.hu.shape
    assert set(np.unique(marked.subregions)) == {0, 41, 49}
    assert np.array_equal(marked.labels > 0, marked.subregions > 0)
    inverse = np.linalg.inv(marked.affine)
    for v in marked.vertebrae:
        label = LEVELS.index(v.level) + 3
        middle = v.keypoints[2:4].mean(axis=0)
        inside = middle + 0.85 * (v.keypoints[2:4] - middle)
        index = np.rint(np.vstack([middle, inside]) @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        assert (marked.labels[tuple(index.T)] == label).all()
        assert (marked.subregions[tuple(index.T)] == 49).all()
        behind = marked.subregions[marked.labels == label] == 41
        assert 0.1 < behind.mean() < 0.8
    assert marked.hu[marked.labels > 0].mean() > plain.hu[marked.labels == 0].mean() + 200


def test_the_sacrum_is_one_label_below_the_last_vertebra() -> None:
    phantom = next(
        p
        for p in (make_phantom(SEED, index, labels=True, spacing_mm=3.0) for index in range(12))
        if p.field == "lumbar"
    ).stored_as(("R", "A", "S"))
    assert phantom.labels is not None
    assert phantom.subregions is not None
    sacrum, last = phantom.labels == 26, phantom.labels == LEVELS.index(phantom.vertebrae[-1].level) + 3
    assert np.nonzero(sacrum)[2].mean() < np.nonzero(last)[2].mean() - 10
    assert set(np.unique(phantom.subregions[sacrum])) == {41, 49}
    assert phantom.hu[sacrum & (phantom.subregions == 49)].mean() > 50


def test_masks_alone_have_the_keypoints_of_the_phantom() -> None:
    masks, phantom = make_masks(SEED, 1, (2.0, 2.0, 2.0)), make_phantom(SEED, 1)
    shape = [v.keypoints - v.keypoints.mean(axis=0) for v in phantom.vertebrae]
    assert {v.level for v in phantom.vertebrae} <= {v.level for v in masks.vertebrae}
    for v, expected in zip(phantom.vertebrae, shape, strict=True):
        own = next(m.keypoints for m in masks.vertebrae if m.level == v.level)
        assert np.allclose(own - own.mean(axis=0), expected, atol=1e-9)
        index = np.rint((own.mean(axis=0) - masks.affine[:3, 3]) / 2.0).astype(int)
        assert masks.labels[tuple(index)] == LEVELS.index(v.level) + 3
    with pytest.raises(ConfigError):
        make_masks(-1, 0)


def test_labels_are_written_beside_the_scans(cohort: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, cases=1, seed=SEED, labels=True)
    name = "phantom-0001.nii.gz"
    assert (tmp_path / "images" / name).read_bytes() == (cohort / "images" / name).read_bytes()
    scan = nib.load(tmp_path / "images" / name)
    for kind in ("labels", "subregions"):
        mask = nib.load(tmp_path / kind / name)
        assert mask.shape == scan.shape
        assert np.array_equal(mask.affine, scan.affine)
        assert mask.get_data_dtype() == np.uint8


def test_a_shard_writes_the_same_files(cohort: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, cases=3, seed=SEED, shard=(1, 2))
    assert [c["case"] for c in rows(tmp_path / "cases.csv")] == ["phantom-0002"]
    name = "images/phantom-0002.nii.gz"
    assert (tmp_path / name).read_bytes() == (cohort / name).read_bytes()


@pytest.mark.parametrize(
    ("cases", "seed", "shard"), [(0, 0, (0, 1)), (-1, 0, (0, 1)), (1, -1, (0, 1)), (2, 0, (2, 2)), (2, 0, (0, 0))]
)
def test_impossible_requests_are_refused(tmp_path: Path, cases: int, seed: int, shard: tuple[int, int]) -> None:
    with pytest.raises(ConfigError) as error:
        write_phantoms(tmp_path, cases=cases, seed=seed, shard=shard)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
