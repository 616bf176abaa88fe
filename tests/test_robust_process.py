"""What comes from outside while vertfrac works: signals, full disks, others in the folder; and what leaves it: nothing.

Each call is a process, forked from one that has imported everything. ``benchmarks/robustness.py`` tries more.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from filelock import FileLock
from PIL import Image as Picture

from vertfrac import tables
from vertfrac.files import alone, clear_unfinished, replacing, replacing_folder
from vertfrac.imaging import read_image
from vertfrac.imaging.dicom_write import write_dicom

WriteScan = Callable[..., Path]
FULL = """
import os, errno
from vertfrac.report import views
def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
views.write_json = full
"""
"""Code that lets the disk be full when the views of a scan are written."""
NETWORK = """
import os, sys
EVENTS = {"connect", "connect_ex", "sendto", "sendmsg", "bind", "getaddrinfo", "gethostbyname", "gethostbyaddr"}
def watch(event, arguments):
    if event.removeprefix("socket.") in EVENTS and event.startswith("socket."):
        os.write(2, f"network: {event} {arguments}\\n".encode())
sys.addaudithook(watch)
"""
"""Code that tells on standard error of every look-up, connection and packet of Python's sockets, whoever makes it."""


def _load() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "preloaded.py"
    spec = importlib.util.spec_from_file_location("preloaded", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _load()


@pytest.fixture(scope="module")
def vertfrac() -> Iterator[Any]:
    with tool.Preloaded() as preloaded:
        yield preloaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("process")


@pytest.fixture(scope="module")
def model(folder: Path, make_model: Callable[..., Path]) -> Path:
    return make_model(folder / "model", objectness=3.0)


@pytest.fixture(scope="module")
def scans(folder: Path, write_scan: WriteScan) -> list[Path]:
    def hu(x: Any, y: Any, z: Any) -> Any:
        return 40 * np.sin(x / 9) + y + 30 * np.cos(z / 7)

    return [write_scan(folder / "scans" / f"{name}.nii", hu, shape=(24, 24, 30)) for name in ("a", "b")]


Predict = Callable[..., Any]


@pytest.fixture
def predict(vertfrac: Any, model: Path, tmp_path: Path, scans: list[Path]) -> Predict:
    """``vertfrac predict`` of two scans, or of those given, into ``out``; code that runs before."""

    def call(before: str = "", *options: str, paths: list[Path] | None = None, out: Path | None = None) -> Any:
        arguments = ["predict", *(paths or scans), "--out", out or tmp_path / "out", "--model", model]
        return vertfrac.call(
            *arguments, "--device", "cpu", "--threads", "1", "--quiet", *options, before=tool.WITHOUT_PICTURES + before
        )

    return call


def left(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


WHOLE = {"a", "b", "report.html", "scans.csv", "scans.parquet", "vertebrae.csv", "vertebrae.parquet"}


def _is_one_line(done: Any, code: int, *words: str) -> None:
    assert done.code == code, done
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert all(word in done.err for word in words), done.err


# --- signals


@pytest.mark.parametrize("stage", [*tool.STAGES])
def test_a_signal_in_any_stage_leaves_nothing_half_written(predict: Predict, tmp_path: Path, stage: str) -> None:
    done = predict(tool.signal_in(stage, "SIGTERM"))
    _is_one_line(done, 143, "vertfrac: stopped by SIGTERM")
    assert left(tmp_path / "out") == (WHOLE - {"report.html"} if stage == "tables" else set())


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGHUP", 129)])
def test_other_signals_have_their_own_exit_status(predict: Predict, tmp_path: Path, name: str, code: int) -> None:
    _is_one_line(predict(tool.signal_in("write", name, call=2)), code, f"stopped by {name}")
    assert left(tmp_path / "out") == {"a"}
    assert (tmp_path / "out" / "a" / "scan.json").is_file()


def test_a_signal_that_the_caller_ignores_stays_ignored(predict: Predict, tmp_path: Path) -> None:
    done = predict("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + tool.signal_in("read", "SIGHUP"))
    assert (done.code, left(tmp_path / "out")) == (0, WHOLE)


def test_a_second_signal_does_not_disturb_the_clearing_up(predict: Predict, tmp_path: Path) -> None:
    twice = "import shutil\n" + "true_remove = shutil.rmtree\ndef remove(*a, **k):\n"
    twice += "    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n    true_remove(*a, **k)\n"
    done = predict(tool.signal_in("write", "SIGTERM") + twice + "shutil.rmtree = remove\n")
    _is_one_line(done, 143, "SIGTERM")
    assert left(tmp_path / "out") == set()


def test_what_a_killed_call_has_left_is_cleared_by_the_next(predict: Predict, tmp_path: Path) -> None:
    assert predict(tool.signal_in("write", "SIGKILL", call=2)).code == 137
    unfinished = left(tmp_path / "out") - {"a", ".lock"}
    assert [name.startswith(".writing-") for name in unfinished] == [True]
    assert predict().code == 0
    assert left(tmp_path / "out") == WHOLE


def test_no_table_tells_of_folders_that_a_stopped_call_has_replaced(predict: Predict, tmp_path: Path) -> None:
    assert predict().code == 0
    assert predict(tool.signal_in("read", "SIGKILL", call=2)).code == 137
    assert left(tmp_path / "out") == {"a", "b", ".lock"}
    assert predict().code == 0
    assert left(tmp_path / "out") == WHOLE


def test_other_commands_stop_likewise(vertfrac: Any, tmp_path: Path) -> None:
    halfway = "import os, signal\nfrom pathlib import Path\ntrue = Path.write_bytes\n"
    halfway += "def write(self, content):\n    true(self, content[:99])\n    os.kill(os.getpid(), signal.{})\n"
    halfway += "    true(self, content)\nPath.write_bytes = write\n"
    images = tmp_path / "images"
    _is_one_line(
        vertfrac.call("phantom", "--cases", 1, "--out", tmp_path, before=halfway.format("SIGINT")), 130, "SIGINT"
    )
    assert left(images) == set()
    assert vertfrac.call("phantom", "--cases", 1, "--out", tmp_path, before=halfway.format("SIGKILL")).code == 137
    assert len(left(images)) == 1
    assert vertfrac.call("phantom", "--cases", 1, "--out", tmp_path).code == 0
    assert left(images) == {"phantom-0001.nii.gz"}


def test_a_report_that_is_stopped_stays_the_one_before(vertfrac: Any, predict: Predict, tmp_path: Path) -> None:
    assert predict().code == 0
    page = (tmp_path / "out" / "report.html").read_bytes()
    stop = tool.signal_in("vertfrac.report.page.read_views", "SIGTERM")
    _is_one_line(vertfrac.call("report", tmp_path / "out", before=stop), 143, "stopped by SIGTERM")
    assert (left(tmp_path / "out"), (tmp_path / "out" / "report.html").read_bytes()) == (WHOLE, page)


# --- disks


def test_a_full_disk_stops_the_call_by_the_name_of_the_folder(predict: Predict, tmp_path: Path) -> None:
    _is_one_line(predict(FULL), 1, f"vertfrac: {tmp_path / 'out' / 'a'}: No space left on device")
    assert left(tmp_path / "out") == set()
    assert predict().code == 0


def test_a_full_disk_is_no_reason_of_a_scan_in_an_archive(
    vertfrac: Any, tmp_path: Path, scans: Any, model: Path
) -> None:
    listing = tmp_path / "list.parquet"
    assert vertfrac.call("archive", "list", "--scans", scans[0].parent, "--shards", 1, "--out", listing).code == 0
    measure = ["archive", "measure", "--listing", listing, "--shard", "0/1", "--model", model, "--out", tmp_path]
    measure += ["--done", tmp_path / "done.json", "--device", "cpu", "--threads", 1]
    done = vertfrac.call(*measure, "--pictures", before=tool.WITHOUT_PICTURES + FULL)
    _is_one_line(done, 1, "No space left on device")
    assert not (tmp_path / "done.json").exists()
    done = vertfrac.call(*measure)
    assert done.out == "2 scans, 2 ok, 0 failed, 2 computed, 0 resumed, 0 kept\n"


def test_a_folder_that_takes_nothing_is_one_line_before_any_work(predict: Predict, tmp_path: Path) -> None:
    out = tmp_path / "closed"
    out.mkdir(mode=0o555)
    if os.geteuid() == 0:  # who may write everywhere but in the files of the kernel
        out = Path("/proc/vertfrac")
    done = predict("import vertfrac.inference.scan as scan\nscan.localize = None", out=out)
    _is_one_line(done, 1, f"vertfrac: {out}")


def test_a_writer_that_fails_is_named_by_its_target(tmp_path: Path) -> None:
    def write() -> None:
        with replacing_folder(tmp_path / "scan") as folder, replacing(folder / "table.csv") as temporary:
            (temporary / "below").write_text("no folder")

    with pytest.raises(NotADirectoryError) as caught:
        write()
    assert caught.value.filename == str(tmp_path / "scan")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("whole")
    true = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(target).name == "old" and not str(source).endswith("-old"):
            raise OSError(5, "Input/output error")
        true(source, target)

    def write() -> None:
        with replacing_folder(tmp_path / "old"):
            pass

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="old"):
        write()
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["whole"]
    assert left(tmp_path) == {"old"}


# --- others in the folder


def test_two_calls_never_write_into_one_folder(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        _is_one_line(predict(), 1, f"{tmp_path / 'out'}: another process is writing its results here")
        assert left(tmp_path / "out") == {".lock"}
    assert predict().code == 0
    assert left(tmp_path / "out") == WHOLE


def test_a_file_system_without_locks_lets_everybody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", none)
    with alone(tmp_path / ".lock"):
        (tmp_path / "file").touch()
    assert left(tmp_path) == {"file"}


@pytest.mark.parametrize("name", ["scans.csv", "report.html", "vertebrae.parquet", "scans.parquet"])
def test_files_of_others_are_not_replaced(predict: Predict, tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir()
    theirs.write_text("precious")
    _is_one_line(predict("import vertfrac.inference.scan as scan\nscan.localize = None"), 1, str(theirs), "exists")
    assert (left(theirs.parent), theirs.read_text()) == ({name}, "precious")


def test_only_what_dead_processes_of_this_machine_left_is_cleared(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, other = (f".writing-{platform.node()}-{os.getpid()}-abc", f".writing-elsewhere-{gone.pid}-abc")
    for name in (mine, other, f".writing-{platform.node()}-{gone.pid}-abc.nii.gz", "scan"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    clear_unfinished(tmp_path)
    assert left(tmp_path) == {mine, other, "scan"}


# --- scans


def test_scans_that_vanish_need_too_much_or_bring_out_a_defect_cost_no_other(
    predict: Predict, tmp_path: Path, scans: list[Path]
) -> None:
    names = ["vanished", "large", "defect", "good"]
    paths = [tmp_path / f"{name}.nii" for name in names]
    for path in paths:
        path.write_bytes(scans[0].read_bytes())
    done = predict("""
import os
import torch
import vertfrac.inference.scan as scan
import vertfrac.inference.predict as predict
read, localize, calls = predict.read_image, scan.localize, []
def reading(path):
    if path.name == "vanished.nii":
        os.remove(path)
    return read(path)
def localizing(*arguments, **options):
    calls.append(1)
    if len(calls) == 1:
        torch.empty(10**14)
    return len(calls) / 0 if len(calls) == 2 else localize(*arguments, **options)
predict.read_image, scan.localize = reading, localizing
""", paths=paths)  # fmt: skip
    rows = tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS).set_index("case")
    assert (done.code, rows.index.tolist()) == (1, names)
    assert rows["status"].tolist() == ["failed", "failed", "failed", "ok"]
    assert "vanished.nii: no such file" in rows["reason"]["vanished"]
    assert "large.nii: the scan needs more memory than there is" in rows["reason"]["large"]
    assert re.search(r"defect\.nii: a defect of vertfrac, ZeroDivisionError.*line \d+", rows["reason"]["defect"])
    assert len(done.err.splitlines()) == 3


# --- determinism, and the network


def test_two_processes_write_the_same_bytes_and_open_no_connection(predict: Predict, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = predict(NETWORK, out=tmp_path / name)
        assert (done.code, done.err) == (0, "")
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    timed = {"scan.json", "scans.parquet", "scans.csv"}  # they hold the seconds that it took
    assert {file.name for file in files} > {"vertebrae.parquet", "curve.parquet", "views.json", *timed}
    for file in files:
        one, two = (tmp_path / name / file for name in ("one", "two"))
        assert file.name in timed or one.read_bytes() == two.read_bytes(), file
    first, second = (
        tables.read_table(tmp_path / name / "scans.parquet", tables.SCAN_RESULTS) for name in ("one", "two")
    )
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"), check_exact=True)


def test_a_connection_would_be_seen(vertfrac: Any) -> None:
    tries = (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), timeout=1)\nexcept OSError:\n    pass\n"
    )
    assert "network: socket.connect" in vertfrac.call("--version", before=NETWORK + tries).err


def test_a_training_from_one_seed_gives_the_same_bytes_and_opens_no_connection(
    vertfrac: Any, tmp_path: Path, write_scan: WriteScan, spine_keypoints: Any, annotations_of: Any, tiny_system: Any
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        write_scan(tmp_path / f"{name}.nii", lambda x, y, z: x + y - z)
    (tmp_path / "cases.csv").write_text("case,image\n" + "".join(f"{name},{name}.nii\n" for name in names))
    marks = [annotations_of(spine_keypoints(3), case=name) for name in names]
    pd.concat(marks).to_csv(tmp_path / "annotations.csv", index=False)
    cohort = json.dumps({"kind": "nifti", "folder": str(tmp_path)})
    for name in ("one", "two"):
        work = tmp_path / name
        for command in (
            ("ingest", "--cohort", cohort, "--out", work),
            ("folds", "--cases", work / "cases.parquet", "--settings", '{"k": 3}', "--out", work / "folds.parquet"),
            ("resample", "--cases", work / "cases.parquet", "--spacing", 4, 4, 4, "--out", work / "volumes"),
            ("train-localizer", "--volumes", work / "volumes", "--annotations", work / "annotations.parquet",
             "--folds", work / "folds.parquet", "--fold", 0, "--settings", json.dumps(tiny_system["localizer"]),
             "--work", work / "work", "--out", work / "weights.safetensors", "--device", "cpu", "--threads", 1),
        ):  # fmt: skip
            done = vertfrac.call(*command, before=NETWORK)
            assert done.code == 0, done
            assert "network:" not in done.err
    for file in ("a.nii", "cases.parquet", "annotations.parquet", "folds.parquet", "volumes", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


# --- privacy

SECRETS = {
    "PatientName": "Quxley^Wilhelmina", "PatientID": "QX-778812", "PatientBirthDate": "19310719", "PatientAge": "094Y",
    "AccessionNumber": "ACC55517", "ReferringPhysicianName": "Zebrowski^Otto", "InstitutionName": "Klinik Nordwald",
    "StudyDescription": "Quxley spine", "SeriesDescription": "Quxley axial", "StudyDate": "20190227",
    "StudyTime": "171819", "StationName": "NWCT4", "OperatorsName": "Ypsilanti^Eva", "ImageComments": "Quxley fell",
    "DeviceSerialNumber": "SN-440091", "StudyID": "STU-9931", "PatientComments": "sister of Quxley",
}  # fmt: skip


@pytest.fixture(scope="module")
def study(folder: Path, scans: list[Path]) -> Path:
    """A study with all that a scanner writes of a patient: two series, and one file that is no slice."""
    image = read_image(scans[0])
    for part, slices in (("1", 30), ("2", 29)):
        names = [f"{number}.dcm" for number in range(30)]
        write_dicom(folder / "study" / part, image, patient="p", seed=(part,), names=names)
        for number, name in enumerate(names):
            path = folder / "study" / part / name
            if number >= slices:
                path.unlink()
                continue
            one = pydicom.dcmread(path)
            for key, value in SECRETS.items():
                setattr(one, key, value)
            one.SeriesNumber = int(part)
            one.save_as(path)
    (folder / "study" / "notes.dcm").write_text("Quxley")
    return folder / "study"


def _words(folder: Path) -> Iterator[tuple[Path, str]]:
    """All that is said in the files below a folder, unpacked where it is packed; DICOM objects are left out."""
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            yield path, f"{pq.read_schema(path).metadata} {pd.read_parquet(path).to_csv()}"
        elif path.suffix == ".png" and path.stat().st_size:
            yield path, str(Picture.open(path).info)
        elif path.is_file() and path.suffix != ".dcm":
            yield path, path.read_text(encoding="utf-8")


def _private(study: Path) -> set[str]:
    """What must not leave a study: its texts and parts of names, and every UID."""
    parts = {part for value in SECRETS.values() for part in re.split(r"[\^ ]", value) if len(part) > 3}
    one = pydicom.dcmread(study / "1" / "0.dcm")
    uids = {str(one[key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return {*SECRETS.values(), *parts, *uids} - {"spine", "axial", "fell", "sister"}


def test_what_identifies_a_patient_goes_into_dicom_objects_alone(
    vertfrac: Any, tmp_path: Path, study: Path, model: Path
) -> None:
    out = tmp_path / "out"
    done = vertfrac.call(
        "predict", study, study / "2" / "3.dcm", "--dicom", "--verbose",
        "--out", out, "--model", model, "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    assert done.code == 1, done
    told = dict(_words(out))
    assert {path.name for path in told} >= {
        "scan.json", "report.html", "overlay.png", "vertebrae.parquet", "vertebrae.csv", "scans.parquet", "scans.csv",
        "views.json", "rulers.mrk.json", "curve.parquet",
    }  # fmt: skip
    assert "2 CT series, read number 1 (30 slices); left out: number 2 (29 slices)" in told[out / "scans.csv"]
    said = [*told.values(), *map(str, told), done.out, done.err]
    assert not {secret for secret in _private(study) for text in said if secret in text}
    for name in ("measurements.dcm", "overlay.dcm"):
        one = pydicom.dcmread(out / "study" / name)
        assert (one.PatientName, one.PatientID) == (SECRETS["PatientName"], SECRETS["PatientID"])
        assert one.StudyInstanceUID == pydicom.dcmread(study / "1" / "0.dcm").StudyInstanceUID


def test_a_study_that_cannot_be_read_tells_no_more(vertfrac: Any, tmp_path: Path, study: Path, model: Path) -> None:
    for number, harm in enumerate(("missing", "PixelSpacing", "RescaleSlope", "PixelData")):
        place = tmp_path / str(number)
        place.mkdir()
        for path in (study / "1").iterdir():
            one = pydicom.dcmread(path)
            if path.stem == "7":
                if harm == "missing":
                    continue
                delattr(one, harm)
            one.save_as(place / path.name)
    places = [tmp_path / str(number) for number in range(4)]
    done = vertfrac.call("predict", *places, "--out", tmp_path / "out", "--model", model, "--device", "cpu")
    assert done.code == 1
    said = [*dict(_words(tmp_path / "out")).values(), done.out, done.err]
    assert tables.read_table(tmp_path / "out" / "scans.parquet", tables.SCAN_RESULTS)["status"].tolist()[:2] == [
        "failed", "failed",
    ]  # fmt: skip
    assert not {secret for secret in _private(study) for text in said if secret in text}


def test_the_report_names_no_address_outside(predict: Predict, tmp_path: Path) -> None:
    assert predict().code == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<meta[^>]+Content-Security-Policy[^>]+default-src (&#39;|')none", page)
    loads = re.findall(
        r"""(?:src|href|action|poster|data)\s*=\s*["']?([^"'\s>]+)|url\(\s*["']?([^"')]+)|@import""", page
    )
    assert not [one for one in loads if re.match(r"(?:[a-z]+:)?//|https?:", "".join(one), re.IGNORECASE)]
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts)\s*\(", page)
