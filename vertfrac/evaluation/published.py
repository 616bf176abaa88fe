"""What the two papers publish, as data to print beside our own values.

Only what their texts state without doubt: most of their tables is lost or garbled in the texts at hand. P20 is Pisov et
al. 2020 (abstract and Table 1), Z22 is Zakharov et al. 2022 (abstract).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vertfrac.errors import ConfigError


@dataclass(frozen=True)
class Published:
    """One published value. ``metric``, ``level`` and ``subset`` are named as in SUMMARY.

    level, subset : None where the text does not say for which of our tasks the value holds. std : as printed, over
    vertebrae. remark : words that belong before the value, such as "up to".
    """

    source: Literal["P20", "Z22"]
    system: str
    metric: str
    level: str | None
    subset: str | None
    value: float
    std: float | None = None
    remark: str = ""


PUBLISHED: tuple[Published, ...] = (
    Published("P20", "pisov2020", "localisation", "vertebra", "all", 0.97, 0.64),
    Published("P20", "pisov2020", "localisation", "vertebra", "G <= 0.74", 1.14, 0.69),
    Published("P20", "pisov2020", "recall", "vertebra", "all", 0.997),
    Published("P20", "pisov2020", "recall", "vertebra", "G <= 0.74", 1.000),
    Published("P20", "pisov2020", "precision", "vertebra", "all", 0.993),
    Published("P20", "pisov2020", "ROC AUC", "patient", "G <= 0.74", 0.93),
    Published("P20", "experts", "localisation", "vertebra", "all", 1.01, 0.98),
    Published("P20", "experts", "localisation", "vertebra", "G <= 0.74", 1.17, 0.78),
    Published("P20", "experts", "recall", "vertebra", "all", 0.983),
    Published("P20", "experts", "recall", "vertebra", "G <= 0.74", 0.973),
    Published("P20", "experts", "precision", "vertebra", "all", 0.996),
    Published("Z22", "zakharov2022", "localisation", "vertebra", "all", 1.0, remark="about"),
    Published("Z22", "zakharov2022", "recall", "vertebra", "all", 0.99),
    Published("Z22", "zakharov2022", "precision", "vertebra", "all", 0.99),
    Published("Z22", "zakharov2022", "ROC AUC", "patient", "G <= 0.74", 0.96, remark="up to"),
    Published("Z22", "zakharov2022", "ROC AUC", None, None, 0.95, remark="on VerSe"),
    Published("Z22", "zakharov2022", "sensitivity", None, None, 0.85, remark="on VerSe"),
    Published("Z22", "zakharov2022", "specificity", None, None, 0.90, remark="on VerSe"),
)
"""The abstracts name no threshold for the patient AUC; it stands at G <= 0.74, the task that both call relevant."""

NAMES: tuple[str, ...] = tuple(dict.fromkeys(entry.system for entry in PUBLISHED))
"""The published systems."""


def published_name(system: str, published_as: Mapping[str, str] | None = None) -> str | None:
    """The published system whose values belong beside ours, or None.

    published_as : our name -> published name. A system that it does not name goes with the longest published name that
    its own name starts with. Raises ConfigError for a published name that does not exist.
    """
    chosen = (published_as or {}).get(system)
    if chosen is None:
        return max((name for name in NAMES if system.startswith(name)), key=len, default=None)
    if chosen not in NAMES:
        raise ConfigError(f"published values for {system}: found {chosen!r}, expected one of {', '.join(NAMES)}")
    return chosen
