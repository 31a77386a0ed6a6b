"""Set up Sphinx; `make doc` builds the pages into docs/_build/html."""

import re
import sys
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "Plumbline"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_use_ivar = True  # or attributes of a named tuple come twice
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"  # no page of "Return type: None"
autodoc_preserve_defaults = True  # as they are written: no folders of this machine
autodoc_member_order = "bysource"
html_theme = "furo"
# 100 columns of code fit beside the contents
html_theme_options = {"light_css_variables": {"code-font-size": "var(--font-size--small--3)"}}
html_show_copyright = False
html_title = f"{project} {release}"
exclude_patterns = ["_build", "_generated"]
nitpicky = True
nitpick_ignore_regex = [("py:class|py:exc", ".*")]  # types of torch and Python have no page here


def escape(text: str) -> str:
    """Return text that reStructuredText shows as it is."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def write_config_table(app: Sphinx) -> None:
    """Write the table of config keys from the code, for config.rst to include."""
    from config.keys import KEYS, REQUIRED

    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 24 42 34", ""]
    lines += ["   * - Key", "     - Meaning", "     - Accepts; default"]
    for key in KEYS.values():
        default = "must be given" if key.name in REQUIRED else f"``{key.default!r}``"
        lines += [
            f"   * - ``{key.name}``",
            f"     - {escape(key.meaning)}",
            f"     - {escape(key.kind.rule)}; {default}",
        ]
    path = DOCS / "_generated" / "config_table.rst"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Have the generated parts written before the pages are read."""
    app.connect("builder-inited", write_config_table)
