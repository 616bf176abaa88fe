"""Laws of the cohort: what was written is read back, whatever the layout, and a voxel stays where its slice lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from vertfrac import tables
from vertfrac.cli import main
from vertfrac.cohorts.phantom import Phantom, lungcancer500, make_phantom
from vertfrac.cohorts.sources import Scan, list_scans
from vertfrac.config import parse_cohort
from vertfrac.errors import AnnotationError, CohortError, ConfigError
from vertfrac.genant import genant_index, grade
from vertfrac.geometry.grid import Grid
from vertfrac.geometry.keypoints import heights
from vertfrac.imaging import Image, canonical

Study = Any  # of conftest


def scans_of(root: Path, **more: Any) -> list[Scan]:
    return list_scans(
        "lungcancer500", {"annotations": str(root / "annotations"), "images": str(root / "images"), **more}
    )


def grades(keypoints: np.ndarray) -> Any:
    return grade(genant_index(heights(keypoints))).tolist()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, list[Phantom]]]:
    """Two phantoms as LungCancer-500 with annotations of 2022, the first also with those of 2020."""
    phantoms = [make_phantom(3, index) for index in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lungcancer500, "make_phantoms", lambda cases, seed: enumerate(phantoms[:cases]))
        new, old = (tmp_path_factory.mktemp(name) for name in ("new", "old"))
        lungcancer500.write_lungcancer500(new, cases=2, seed=3)
        lungcancer500.write_lungcancer500(old, cases=1, seed=3, year=2020)
        yield new, old, phantoms


def check(scan: Scan, phantom: Phantom) -> pd.DataFrame:
    """The scan is the phantom; returns its annotations."""
    image, annotations = scan.read()
    keypoints = tables.keypoints_of(annotations)
    true = np.stack([vertebra.keypoints for vertebra in phantom.vertebrae])
    assert scan.case == scan.patient == phantom.case
    assert np.linalg.norm(keypoints - true, axis=-1).max() < 0.1
    assert grades(keypoints) == grades(true)
    expected = canonical(Image(phantom.hu, Grid(phantom.hu.shape, phantom.affine), phantom.case))
    assert np.array_equal(image.hu, expected.hu)
    assert np.allclose(image.grid.world_from_index, expected.grid.world_from_index, atol=1e-6)
    assert image.warnings == ()
    return annotations


def test_phantoms_come_back(written: tuple[Path, Path, list[Phantom]]) -> None:
    new, _, phantoms = written
    for scan, phantom in zip(scans_of(new), phantoms, strict=True):
        annotations = check(scan, phantom)
        assert annotations["level"].tolist() == [vertebra.level for vertebra in phantom.vertebrae]


def test_the_format_of_2020_says_the_same_but_the_level(written: tuple[Path, Path, list[Phantom]]) -> None:
    _, old, phantoms = written
    (scan,) = scans_of(old)
    assert set(check(scan, phantoms[0])["level"]) == {""}


def test_the_layout_of_the_files_does_not_matter(written: tuple[Path, Path, list[Phantom]], tmp_path: Path) -> None:
    """All in one folder; then spread at random over a tree, found by an index that was made before."""
    new, _, phantoms = written
    shutil.copytree(new / "annotations", tmp_path / "annotations")
    flat = tmp_path / "images"
    flat.mkdir()
    for file in (new / "images").glob("*/*"):
        (flat / file.name).hardlink_to(file)
    check(scans_of(tmp_path)[0], phantoms[0])

    rng = np.random.default_rng(2)
    for n, file in enumerate(sorted(flat.iterdir())):
        deep = flat.joinpath(*rng.choice(list("abc"), size=rng.integers(0, 4)))
        deep.mkdir(parents=True, exist_ok=True)
        file.rename(deep / f"{n:05d}.ima")
    done = CliRunner().invoke(main, ["index", "--images", str(flat), "--out", str(tmp_path / "series.parquet")])
    assert "of 2 series; 0 other files" in done.output
    scans = scans_of(tmp_path, index=str(tmp_path / "series.parquet"))
    check(scans[1], phantoms[1])
    assert scans[1].files == (tmp_path / "annotations" / "phantom-0002.json", tmp_path / "series.parquet")


def test_uids_are_those_of_the_seed_and_names_say_nothing(written: tuple[Path, Path, list[Phantom]]) -> None:
    new, old, _ = written
    uids = [json.loads(path.read_text())["SeriesInstanceUID"] for path in sorted((new / "annotations").iterdir())]
    assert len(set(uids)) == 2
    assert json.loads((old / "annotations/phantom-0001.json").read_text())["SeriesInstanceUID"] == uids[0]
    one, same = (
        [file.read_bytes() for file in sorted((root / "images/phantom-0001").iterdir())] for root in (new, old)
    )
    assert one == same
    names = [file.name for file in (new / "images/phantom-0001").iterdir()]
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in names)


def test_instance_numbers_may_run_either_way(tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]) -> None:
    """The same image annotated from above and from below gives the same points in the world."""
    down, up = lungcancer_study(tmp_path, "down"), lungcancer_study(tmp_path, "up")
    for number, one in enumerate(reversed(up.slices)):
        one.InstanceNumber = 45 + 1 * number
    for voxels in up.vertebrae:
        voxels[:] = [[row, column, 15 - z] for row, column, z in voxels]
    found = {}
    for study in (down, up):
        study.save()
    for scan in scans_of(tmp_path):
        image, annotations = scan.read()
        found[scan.case] = tables.keypoints_of(annotations)
        assert image.warnings == ()
    assert np.allclose(found["down"], found["up"])
    # the first point, in row 8, column 9, slice 1 of slices 5 mm apart whose first has its corner at LPS -20, -30, 500
    assert np.allclose(found["down"][0, 0], [20 - 9 * 2, 30 - 8 * 3, 500 - 5])


def test_a_uid_may_end_with_a_dot_in_the_json_alone(
    tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]
) -> None:
    study = lungcancer_study(tmp_path, "a")
    study.content["SeriesInstanceUID"] += "."
    study.save()
    (scan,) = scans_of(tmp_path)
    assert len(tables.keypoints_of(scan.read()[1])) == 3
    assert scan.source == str(study.folder)


def test_the_patient_is_the_patient_id_or_the_case(
    tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]
) -> None:
    known, unknown, lost = (lungcancer_study(tmp_path, name) for name in ("known", "unknown", "lost"))
    for one in unknown.slices:
        one.PatientID = ""
    lost.content["SeriesInstanceUID"] = "1.2.3"
    for study in (known, unknown, lost):
        study.save()
    found = {scan.case: scan.patient for scan in scans_of(tmp_path)}
    assert found == {"known": "patient of known", "unknown": "unknown", "lost": "lost"}


def test_what_is_odd_but_usable_is_a_warning(tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]) -> None:
    """Numbers with gaps; a damaged file that lies among the slices of two series and may be of neither."""
    gaps, neighbour = lungcancer_study(tmp_path, "gaps"), lungcancer_study(tmp_path, "neighbour")
    for one in gaps.slices:
        one.InstanceNumber *= 2
    gaps.save()
    for n, file in enumerate(neighbour.save()):
        file.rename(gaps.folder / f"other{n}.dcm")
    (gaps.folder / "broken.dcm").write_bytes(b"")
    first, second = (scan.read()[0].warnings for scan in scans_of(tmp_path))
    assert first[0] == "InstanceNumbers of 16 slices run from 2 to 32, with gaps"
    assert "1 files beside the slices are not DICOM, first" in first[1]
    assert second == first[1:]


def test_listing_needs_annotations_and_images(tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]) -> None:
    with pytest.raises(AnnotationError, match=r"holds no \.json file"):
        scans_of(tmp_path)
    study = lungcancer_study(tmp_path, "a")
    study.save()
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(CohortError, match="images: no such folder, expected the one with the DICOM series"):
        scans_of(tmp_path)


def test_the_command_line_ingests_with_and_without_an_index(
    tmp_path: Path, lungcancer_study: Callable[[Path, str], Study]
) -> None:
    for name in ("a", "b"):
        lungcancer_study(tmp_path, name).save()
    cohort = {"kind": "lungcancer500", "annotations": str(tmp_path / "annotations"), "images": str(tmp_path / "images")}
    call = ["ingest", "--cohort", json.dumps(cohort)]
    index = ["--index", str(tmp_path / "series.parquet")]
    runner = CliRunner()
    done = runner.invoke(main, ["index", "--images", cohort["images"], "--out", index[1]])
    assert done.output == "32 DICOM files of 2 series; 0 other files\n"
    for name, more in (("with", index), ("without", [])):
        done = runner.invoke(main, [*call, *more, "--out", str(tmp_path / name)])
        assert done.output == "2 of 2 cases usable\n"
    tables_of = [tables.read_table(tmp_path / name / "cases.parquet", tables.CASES) for name in ("with", "without")]
    assert tables_of[0].equals(tables_of[1])
    nifti = json.dumps({"kind": "nifti", "folder": str(tmp_path)})
    done = runner.invoke(main, ["ingest", "--cohort", nifti, *index, "--out", str(tmp_path / "no")])
    assert done.exit_code == 2
    assert "--index is for cohorts of kind lungcancer500, found nifti" in done.output


def test_the_configuration_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"--cohort: cohort\.images: Field required"):
        parse_cohort('{"kind": "lungcancer500", "annotations": "a"}', "--cohort")
