"""The plugin `kcp`: TCP flows of the overlay carried by KCP, and by plain TCP where KCP cannot be.

::

    plugin.py    the hook implementations, nothing else
    proxy/       source.py capture side     destination.py dial side     carry.py, relay.py one flow between two streams
                 rules.py which flows, and why not
    stack/       kernel.py the application's TCP ends at a listener of ours, by rewrite.py
                 smoltcp.py it ends in this process: driver.py one native stack for each link, connection.py
    kcp/         sessions over KCP: stream.py -> endpoint.py -> session.py -> an engine, arq/ or ikcp.py

One flow, out: the host holds its TCP SYN -> source -> kcp/ handshake with the peer -> stack completes the application's ->
carry. In: kcp/ -> destination dials -> carry.  It imports the hooks, never the host.
"""
