"""The settings of Sphinx: ``sphinx-build -W --keep-going docs build/docs`` makes the pages."""

from __future__ import annotations

import functools
import json
import textwrap
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import hpcbench
from hpcbench.cli.parser import build_parser
from hpcbench.config import settings

project = "hpcbench"
author = "The hpcbench developers"
copyright = author  # noqa: A001  # Sphinx's name for it
version = release = hpcbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"hpcbench {version}"
html_show_copyright = False

# Links to headings are checked, and equations are written as on the pages of a repository.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]

napoleon_google_docstring = False
# Attributes are listed once, where the docstring of their class has them.
napoleon_use_ivar = True
napoleon_preprocess_types = True
# The property of that name is not meant.
napoleon_type_aliases = {"path": ":class:`path <os.PathLike>`"}
autodoc_member_order = "bysource"
autodoc_typehints = "none"


class CommandHelp(SphinxDirective):
    """Show the ``--help`` of one of the program's commands: no page repeats its options."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the text as a block."""
        parser = build_parser()._commands.choices[self.arguments[0]]
        # The width must not depend on the terminal of whoever builds the pages.
        parser.formatter_class = functools.partial(parser.formatter_class, width=88)
        return [nodes.literal_block(text=parser.format_help(), language="text")]


class SettingsOfFiles(SphinxDirective):
    """Show the settings that have no option, with their defaults, as a TOML file has them."""

    def run(self) -> list[nodes.Node]:
        """Return the text as a block."""
        lines: list[str] = []
        for setting in settings():
            if not setting.metadata["flag"]:
                lines += textwrap.wrap(setting.metadata["help"], 86, initial_indent="# ",
                                       subsequent_indent="# ")  # fmt: skip
                lines.append(f"{setting.name} = {json.dumps(setting.default)}")
        return [nodes.literal_block(text="\n".join(lines), language="toml")]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("settings-of-files", SettingsOfFiles)
    return {"parallel_read_safe": True}
