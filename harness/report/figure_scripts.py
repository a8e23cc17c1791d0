"""The matplotlib script that draws a figure again, for a paper; it contains the numbers of the figure.

The page itself is drawn without matplotlib (panels.py).
"""

from __future__ import annotations

import base64
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from harness import names
from harness.report import templates
from harness.report.figures import Figure

if TYPE_CHECKING:
    import jinja2


def script(figure: Figure, run: str = "") -> str:
    """Python source that writes the figure as PDF and PNG beside itself; all text in it is a literal.

    Args:
        figure: at least one panel.
        run: id of the run, stated in the script.
    """
    panels = _literal([_plain(panel.plot) for panel in figure.panels])
    return _template().render(run=ascii(run), caption=ascii(names.printable(figure.caption)), panels=panels) + "\n"


@cache
def _template() -> jinja2.Template:
    return templates.environment(autoescape=False).from_string(templates.text_of("figure_script.py.j2"))


def url(figure: Figure, run: str = "") -> str:
    """The script as a data URL; arguments as in `script`."""
    return f"data:text/x-python;base64,{base64.b64encode(script(figure, run).encode()).decode()}"


def _literal(value: Any, indent: str = "    ") -> str:
    """Source of a value: keys, and the items of lists of lists, each on a line."""
    if isinstance(value, dict):
        items = [f"{key!r}: {_literal(part, indent + '    ')}" for key, part in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], list | dict):
        items = [_literal(part, indent + "    ") for part in value]
    else:
        return repr(value)
    brackets = "{}" if isinstance(value, dict) else "[]"
    return f"{brackets[0]}\n{indent}" + f",\n{indent}".join(items) + f",\n{indent[4:]}{brackets[1]}"


def _plain(value: Any) -> Any:
    """Literals only: numbers with six digits, NaN as None, text without control characters."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return "\n".join(names.printable(line) for line in value.split("\n"))
    return float(f"{value:.6g}") if math.isfinite(value) else None
