"""Calls by RPC: `framing` cuts and joins pieces, `answer` opens what comes back, `peer` calls over the mesh and serves others.

`client`, over `portal_connection` and `portal_wire`, asks a running node by its portal; the faces are built on it.
"""
