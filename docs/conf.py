"""Sphinx settings. Reference pages are written from the code before the pages are read."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from reference import write_reference  # noqa: E402  (it lies beside this file)

_project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]

project = "fedrounds"
author = "The fedrounds authors"
copyright = author
version = release = _project["version"]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"fedrounds {release}"
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda _: write_reference(HERE / "_build" / "reference"))
