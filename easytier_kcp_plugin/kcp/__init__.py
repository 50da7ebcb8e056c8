"""KCP sessions: reliable byte streams to a peer, as stock's KCP proxy makes them.  The design is in docs/kcp.md.

::

    stream.py      anyio streams, and the one task that drives an endpoint           the only I/O, the only clock
    endpoint.py    all sessions of a node; what strangers get; caps; batches
    session.py     one flow: attempts, engine, end        siblings.py   which of stock's hedged requests is real
    handshake.py   one conversation's state machine       events.py     what an endpoint tells its user
    engine.py      the face of an ARQ engine              ikcp.py       that face over the PyPI package kcp
    header.py      14 bytes     segment.py   24 bytes     conn_data.py  the body of a SYN

Users take `EndpointDriver`, `KcpStream` and `Endpoint`; the rest is for them and for tests.
"""
