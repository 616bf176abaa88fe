"""Which files of a folder make up which VerSe scan, in both directory styles of the public releases.

Subject-based (BIDS): ``PART/rawdata/sub-verse405/sub-verse405_split-verse258_dir-ax_ct.nii.gz`` and, in
``PART/derivatives/sub-verse405``, ``..._seg-vert_msk.nii.gz`` and ``..._seg-subreg_ctd.json`` or ``_seg-vb_ctd.json``.
As in the challenges: ``PART/verse258.nii.gz`` or ``PART/GL017/GL017_CT_ax.nii.gz`` with ``..._seg.nii.gz`` and
``..._ctd.json`` or ``..._iso-ctd.json`` beside it. PART is a folder whose name ends in training, validation or test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vertfrac.files import walk

PARTS = {"train": "train", "training": "train", "val": "validation", "validation": "validation", "test": "test"}
"""How the name of a part's folder may end -> its name in Scan.split."""

_ID = r"(?:verse|gl)\d+"
_ENTITY = r"_(?:dir-[a-z]+|ct[-_](?:iso|ax|sag|cor)|(?:ses|acq|rec|run)-[a-z0-9]+)"
_FILE = re.compile(rf"((?:sub-)?({_ID})(?:_(?:split-)?({_ID}))?(?:{_ENTITY})*)(.*)", re.IGNORECASE)
_IMAGE = r"\.(?!json$|png$|jpe?g$|txt$|csv$|md$)[a-z0-9.]+"
_KINDS = {
    "mask": re.compile(rf"(_seg-vert_msk|_seg){_IMAGE}", re.IGNORECASE),
    "subregions": re.compile(rf"_seg-(subreg|spine)_msk{_IMAGE}", re.IGNORECASE),
    "centroids": re.compile(r"(_seg-[a-z]+_ctd|_ctd|_iso-ctd)\.json", re.IGNORECASE),
    "keypoints": re.compile(r"_seg-vert_kpt\.csv", re.IGNORECASE),
    "ct": re.compile(rf"(_ct)?{_IMAGE}", re.IGNORECASE),
}
_PART = re.compile(rf"(?<![a-z])({'|'.join(sorted(PARTS, key=len, reverse=True))})$", re.IGNORECASE)
_RELEASE = re.compile(r"verse[-_ ]?(?:20)?(19|20)(?!\d)", re.IGNORECASE)
_SUBJECT_FOLDER = re.compile(r"(sub-)?(verse|gl)\d{3}(?!\d)([-_].*)?|ses-.*|rawdata|derivatives", re.IGNORECASE)


@dataclass(frozen=True)
class Series:
    """The files of one scan.

    name : as its files are called, such as sub-verse405_split-verse258 or GL017_CT_ax. subject : the patient, such as
    verse405; identity : the scan, such as verse258, the same in all releases. tree : the folder of its part.
    part : train, validation, test or "". release : 19, 20 or 0 if unknown. files : by kind (ct, mask, subregions,
    centroids, keypoints), each in the order of names.
    """

    name: str
    subject: str
    identity: str
    tree: Path
    part: str
    release: int
    files: dict[str, list[Path]] = field(default_factory=dict, compare=False)

    @property
    def complete(self) -> bool:
        """Whether there is a CT, and a mask or keypoints."""
        return "ct" in self.files and bool({"mask", "keypoints"} & set(self.files))

    def all_files(self) -> tuple[Path, ...]:
        """The files of all kinds."""
        return tuple(path for paths in self.files.values() for path in paths)


def identity(text: str) -> str | None:
    """The last VerSe number in a name, in one form: sub-verse405_split-verse258 and verse258 are verse258, 15 verse015.

    None where there is none.
    """
    plain = re.fullmatch(r"\s*0*(\d+)(?:\.0*)?\s*", text)
    found = re.findall(r"(verse|gl)0*(\d+)", text, re.IGNORECASE) or ([("verse", plain[1])] if plain else [])
    return f"{found[-1][0].lower()}{found[-1][1].zfill(3)}" if found else None


def find_series(root: Path) -> list[Series]:
    """All scans below a folder, by folder and name; what is not named like VerSe is not looked at."""
    found: dict[tuple[Path, str], Series] = {}
    for path in sorted(_visible(root)):
        match = _FILE.fullmatch(path.name)
        kind = match and next((kind for kind, rest in _KINDS.items() if rest.fullmatch(match[4])), None)
        if not match or not kind:
            continue
        tree = _tree(path.parent, root)
        names = (root.name, *tree.relative_to(root).parts)
        series = Series(
            match[1], str(identity(match[2])), str(identity(match[3] or match[2])), tree, _part(names), _release(names)
        )
        found.setdefault((tree, match[1].lower()), series).files.setdefault(kind, []).append(path)
    return [series for series in found.values() if {"ct", "mask", "keypoints"} & set(series.files)]


def _visible(root: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; linked folders are followed."""
    for folder, below, names in walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (folder / name for name in names if not name.startswith("."))


def _tree(folder: Path, root: Path) -> Path:
    while folder != root and _SUBJECT_FOLDER.fullmatch(folder.name):
        folder = folder.parent
    return folder


def _part(names: tuple[str, ...]) -> str:
    """The part that the innermost telling folder names."""
    ends = [match[1].lower() for name in reversed(names) if (match := _PART.search(name))]
    return PARTS[ends[0]] if ends else ""


def _release(names: tuple[str, ...]) -> int:
    years = [int(match[1]) for name in reversed(names) if (match := _RELEASE.search(name))]
    return years[0] if years else 0
