"""The templates of pages and cards, all read in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def template(name: str, **settings: Any) -> jinja2.Template:
    """A template of ``vertfrac/report/templates``: HTML is escaped, and a name that is not given is an error.

    settings : of the jinja2 environment, over these.
    """
    import jinja2  # here: only what writes a page should pay for it

    usual: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vertfrac.report"), undefined=jinja2.StrictUndefined, **{**usual, **settings}
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    return environment.get_template(name)
