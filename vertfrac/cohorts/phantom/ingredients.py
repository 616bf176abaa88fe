"""What goes into a phantom, by name, so that a cohort can be made harder or without one of its ingredients."""

from __future__ import annotations

from collections.abc import Sequence

from vertfrac.errors import ConfigError

Ingredients = frozenset[str]

MEANING: dict[str, str] = {
    "arches": "pedicles, laminae, facets, transverse and spinous processes",
    "thorax": "ribs with cartilage, sternum, clavicles, scapulae, humeri; arms up or down",
    "pelvis": "sacral wings, coccyx, iliac wings, femora",
    "head": "C1, C2, skull base, mandible, teeth, throat",
    "organs": "lungs, airways, heart, vessels with and without contrast and calcium, liver, spleen, kidneys, "
    "stomach, bowel with gas, bladder",
    "muscles": "erector and psoas muscles, fat planes",
    "noise": "reconstruction kernels from soft to sharp, correlated noise of any dose, streaks of shoulders",
    "variants": "11 or 13 thoracic vertebrae with as many ribs, 4 or 6 lumbar ones",
    "deformity": "scoliosis to 60 degrees with rotation, kyphosis to 80, slipped lumbar vertebrae",
    "collapse": "fractures down to a fifth of the height, vacuum clefts",
    "wear": "bridging osteophytes (DISH), vacuum and calcified discs, pits in endplates with sclerotic "
    "rims, sclerosis beside discs, fused levels",
    "lesions": "lytic and sclerotic metastases, haemangiomas, very dense, very thin and very even bone",
    "metal": "screws and rods, cages, cement; hardened beams and starved rays about all metal",
    "protocol": "slices of 0.5 to 5 mm with gaps or overlap, tilted and small fields of view, cupping, soft "
    "kernels, saturated values",
}
"""All ingredients and what they stand for, as docs/cohorts/phantom.md tells it."""

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
