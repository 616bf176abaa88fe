"""Vertebral heights and Genant grades from CT, measured so that a ruler can check them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vertfrac.api import Prediction, Vertebra, load_model, predict

__version__ = "0.1.0"

__all__ = ["Prediction", "Vertebra", "__version__", "load_model", "predict"]


def __getattr__(name: str) -> object:
    """What `vertfrac.api` offers, imported when it is asked for, so that ``import vertfrac`` stays quick."""
    if name in __all__:
        from vertfrac import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
