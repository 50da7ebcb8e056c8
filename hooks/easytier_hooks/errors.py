"""The errors of the plugin interface.

One base, and a child only where somebody branches: the host tells a faulty configuration from a faulty plugin, and falls back
to plain TCP when a transport cannot take a flow. Whatever else a plugin raises in a hook is logged and goes no further.
"""


class HooksError(Exception):
    """Base of every error of this package."""


class PluginConfigError(HooksError):
    """The table of plugins in the configuration is wrong: an unknown name, or a value of the wrong type.

    `plugin` is the name in question.
    """

    def __init__(self, plugin: str, text: str) -> None:
        super().__init__(text)
        self.plugin = plugin


class PluginLoadError(HooksError):
    """A plugin cannot be loaded: it fails to import or does not fit the hooks.

    `plugin` is its name, `problem` says what is wrong without the name.
    """

    def __init__(self, plugin: str, problem: str) -> None:
        super().__init__(f"plugin {plugin!r}: {problem}")
        self.plugin = plugin
        self.problem = problem


class TransportUnavailable(HooksError):
    """Raised by a transport or a stack that cannot take a flow, which may go another way; `reason` is shown to the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DestinationUnreachable(HooksError):
    """Raised by a transport whose peer has no way to the destination, whatever carries the flow; the text is for the user."""


class DialRefused(HooksError):
    """A peer wants a connection that this node does not make for others."""
