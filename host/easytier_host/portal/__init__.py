"""The portal: where `easytier-cli`, `easytier-tui` and monitors of this machine ask a running process.

::

    main.py -> server.py  --frames--> services.py -> views.py, flow_views.py      a node as stock's messages show it
                 |                       '---------> own_service.py -> feed.py, diagnosis.py         what stock has not
               door.py (listens, whitelist) <- metrics_http.py                      counters for a scraper
               address.py (what the settings mean), pace.py (how much of the node's time it may take), session.py,
               caller.py (whose program asks)

No answer holds a secret.  Nothing can be changed but this: a flow is closed, for programs of this machine that are root's or of
the user who runs the node.  Wire format: `rpc/portal_wire.py`.
"""
