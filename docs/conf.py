"""The site: the pages of this folder and the docstrings of binq. ``make site`` builds it."""

import binq

project = "binq"
author = "The binq authors"
copyright = "the binq authors, Apache-2.0"
version = release = binq.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # #headings of other pages, as in the repository's own view
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # ArrayLike alone fills a line

html_theme = "furo"
html_title = f"binq {version}"
