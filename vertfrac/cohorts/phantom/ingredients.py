"""What goes into a phantom, by name, so that a cohort can be made harder or without one of its ingredients."""

from __future__ import annotations

from collections.abc import Sequence

from vertfrac.errors import ConfigError

Ingredients = frozenset[str]

MEANING: dict[str, str] = {
    "arches": "pedicles, laminae, facets, transverse and spinous processes",
    "thorax": "ribs, sternum, clavicles, scapulae and humeri",
    "pelvis": "sacral wings, coccyx, iliac wings, femora",
    "head": "C1, C2, skull base, mandible, throat",
    "organs": "lungs, airways, heart, vessels, organs and bowel of thorax and abdomen",
    "muscles": "erector and psoas muscles, fat planes",
    "noise": "reconstruction kernel, correlated noise, streaks, of any dose",
    "variants": "11 or 13 thoracic and 4 or 6 lumbar vertebrae",
    "deformity": "scoliosis to 60 and kyphosis to 80 degrees, slipped vertebrae",
    "collapse": "vertebrae crushed to a fifth of their height, vacuum clefts in broken ones",
    "wear": "bridging osteophytes, vacuum and calcified discs, pits in endplates, sclerosis beside discs, fused levels",
    "lesions": "lytic and sclerotic metastases, coarse haemangiomas, very dense and very thin bone",
    "metal": "screws and rods, cages, cement; beam hardening and starved rays about all metal",
    "protocol": "slices of 0.5 to 5 mm with gaps or overlap, tilt, small and cut fields of view, cupping, saturation",
}
"""All ingredients and what they stand for."""

USUAL: Ingredients = frozenset(("arches", "thorax", "pelvis", "head", "organs", "muscles", "noise"))
"""Ingredients of a phantom of usual difficulty."""

FULL: Ingredients = frozenset(MEANING)
"""Ingredients of a phantom of full difficulty."""

DIFFICULTIES: dict[str, Ingredients] = {"usual": USUAL, "full": FULL}


def choose(difficulty: str, without: Sequence[str] = ()) -> Ingredients:
    """Ingredients of a difficulty but for some. Raises ConfigError for an unknown name."""
    if difficulty not in DIFFICULTIES:
        raise ConfigError(f"phantoms: found the difficulty {difficulty!r}, expected one of {', '.join(DIFFICULTIES)}")
    for name in without:
        if name not in MEANING:
            raise ConfigError(f"phantoms: found the ingredient {name!r}, expected one of {', '.join(MEANING)}")
    return DIFFICULTIES[difficulty] - frozenset(without)
