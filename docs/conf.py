"""How Sphinx builds the site: pages from the notebooks' committed outputs, nothing from another host."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "tinygpt"
author = copyright = "the tinygpt authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "notebooks", "api", "source", "records", "explorer"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # the default fetches the widget manager from another host
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block", "deflist"]
myst_heading_anchors = 3

mathjax_path = "mathjax/tex-chtml-full.js"
copybutton_selector = ", ".join(
    ["div.cell_input div.highlight pre", *(f"div.highlight-{kind} pre" for kind in ("console", "shell", "powershell"))]
)
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

add_module_names = False
autodoc_inherit_docstrings = False  # what PyTorch says of forward does not hold here
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 70

html_theme = "furo"
pygments_style, pygments_dark_style = "github-light", "github-dark"
html_title = "tinygpt"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = html_show_sourcelink = html_show_sphinx = html_use_index = False
