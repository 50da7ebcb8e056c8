"""SOCKS5 for applications of this machine: `wire` (RFC 1928, sans-IO), `server` (connections), `associate` (datagrams),
`ways` (what leads out).

Destinations in the overlay go by the gate, as those of port forwards; any other is dialled by the kernel, as stock does, so
that a browser can use this as its only proxy.  Nobody has to prove who they are: whoever reaches the port may use it.
"""
