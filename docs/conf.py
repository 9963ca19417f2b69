"""Sphinx: the folder as a site, built strictly by `make docs` (no orphan page, no broken link)."""

from __future__ import annotations

project = "DEDOS Deploy"
author = "DEDOS Deploy contributors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "DEDOS Deploy"
# Nothing of a page is fetched from other hosts.
html_show_sphinx = False
myst_heading_anchors = 3
exclude_patterns = ["_build"]
