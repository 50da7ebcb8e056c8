"""`config template` and `completions`: what the commands can tell without a node."""

from __future__ import annotations

from argparse import ArgumentParser

from easytier_host.config.completions import completions as script_for
from easytier_host.config.template import template


def config_template() -> str:
    """A configuration file for easytier-core with every key, commented out."""
    return template()


def completions(parser: ArgumentParser, shell: str) -> str:
    """The script that teaches a shell the words of `parser`."""
    return script_for(parser, shell)
