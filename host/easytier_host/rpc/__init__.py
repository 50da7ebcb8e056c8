"""Calls between nodes: `framing` cuts and joins pieces, `peer` makes calls over the mesh and serves those of others."""
