"""The plugins of the project: KCP as a transport for TCP flows, the TCP stacks, and a choice of transport by the path.

::

    plugin.py    the hook implementations of kcp, kernel and smoltcp; auto.py that of auto
    proxy/       rules.py which flows, and why not    source.py dials through a peer    destination.py serves what peers dial
                 connection.py a KCP stream as the host's relay sees it
    stack/       kernel.py a connection ends at a listener of ours, by rewrite.py
                 smoltcp.py it ends in this process: driver.py one native stack for each link, connection.py
    kcp/         sessions over KCP: stream.py -> endpoint.py -> session.py -> an engine, arq/ or ikcp.py

One flow, out: the host holds its TCP SYN -> source: kcp/ handshake with the peer -> a stack completes the application's -> the
host relays.  In: kcp/ -> destination -> the host dials and relays.  The package imports the hooks, never the host.
"""
