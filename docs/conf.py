"""The documentation as a web site: `make docs`.  Sphinx reads the Markdown pages where they are, so links work in both forms.

Every link to a page, a heading or a file is checked; one that leads nowhere ends the build, and so does a page that the index
leaves out.
"""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import PurePosixPath
from typing import Any

project = "easytier-kcp-plugin"
author = "easytier-kcp-plugin contributors"
version = release = version_of("easytier-kcp-plugin")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
# The source folder is that of the project: pages link to README.md, bench/ and examples/.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", *(f"{folder}/README.md" for folder in ("bench", "examples", "packaging"))]

myst_heading_anchors = 4
myst_links_external_new_tab = True

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_navigation)


def _add_navigation(_app: Any, page: str, source: list[str]) -> None:
    """Make of the index's sections the navigation, which Sphinx wants in a form that no other reader of the page would like."""
    if page != root_doc:
        return
    blocks = ["```{toctree}\n:hidden:\n\n/README\n```"]
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        pages = [
            PurePosixPath("docs") / link.removesuffix(".md") for link in re.findall(r"^- \[.*?\]\((\S+?)\)", body, re.MULTILINE)
        ]
        entries = "\n".join(f"/{str(each).replace('docs/../', '')}" for each in pages)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```")
    source[0] += "\n" + "\n\n".join(blocks) + "\n"
