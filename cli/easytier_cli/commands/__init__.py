"""One module a command: each asks a node and returns a `Report`; nothing here prints."""
