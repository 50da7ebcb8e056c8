"""From a TCP flow to a transport and back: capture side, dial side, and the byte pump between two streams."""
