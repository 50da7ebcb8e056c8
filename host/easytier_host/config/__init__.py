"""What a node is told: file, options and environment variables, made into one frozen `Config`.

```
 file.toml --environment.expand--> tomllib --tree.walk--+
                  toml_lines.find (line of each key) ---+--> [Given, ...] --loader.build--> Config + warnings
 easytier-core options, ET_* variables --options.parse--+          ^
                                                                   |
                                        schema: every key, option_table: every option, each
                                        once; kinds: what a value may be
```

Stock's files and options are taken as they are.  What this node does not do is accepted with a warning; what nobody knows is an
error that names the place and the nearest known name.  `reference` prints the schema as `docs/configuration.md`, and
`writer` a `Config` as a file.
"""

from easytier_host.config.errors import ConfigError
from easytier_host.config.loader import Loaded, load, load_text
from easytier_host.config.model import Config, FileLog, Flags, PluginSetting, PortForward, ProxyNetwork

__all__ = [
    "Config",
    "ConfigError",
    "FileLog",
    "Flags",
    "Loaded",
    "PluginSetting",
    "PortForward",
    "ProxyNetwork",
    "load",
    "load_text",
]
