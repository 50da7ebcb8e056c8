"""Nodes to look at, in one process, without root and without touching the host's network.

`line.py` is a bad line between two UDP sockets on loopback, `nodes.py` the configuration of the nodes, `traffic.py` what their
applications do.  `python -m easytier_host.demo` runs them for as long as its standard input is open: `easytier-tui --demo` does
so.  No part of a node: nothing else in this package imports it.
"""
