"""The documentation site: ``make docs``."""

import sys
from pathlib import Path

# The extension beside this file; the packages themselves are installed.
sys.path.insert(0, str(Path(__file__).parent))

from linlocal_docs import REPORT

import linlocal

project = "linlocal"
author = copyright = "the linlocal authors"
release = version = linlocal.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
    "linlocal_docs",
]
exclude_patterns = ["_build", "results/*/report.md"]
suppress_warnings = ["toc.empty_glob"]  # a pattern may stand for a page that is optional
nitpicky = True
# Other packages' objects: linking to them would need their inventories from the network.
nitpick_ignore_regex = [("py:.*", r"(?!linlocal).*")]

# Docstrings are written for `help`: a word in backticks is a name if it is one, else code.
default_role = "py:obj"
autosummary_generate = False
autodoc_mock_imports = ["lightning"]  # the page of the callback needs only its docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Shown by their names, not by what numpy spells them out to.
autodoc_type_aliases = {
    name: name for name in ("Array", "ArrayLike", "DTypeLike", "Index", "Keys", "Symbols")
}
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
python_maximum_signature_line_length = 80

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_custom_formats = {".notebook": ["linlocal_docs.read_notebook", {}, False]}
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # else every page asks the network for them

html_theme = "furo"
html_title = "linlocal"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# The report of `make figures`, if it was made.
html_extra_path = [str(path) for path in [REPORT] if path.exists()]
html_copy_source = False
html_show_sphinx = False
