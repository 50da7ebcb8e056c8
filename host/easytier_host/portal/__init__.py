"""The portal: where `easytier-cli` and monitors of this machine ask a running process.

::

    main.py -> server.py (listens, whitelist, frames) -> services.py (which method, which node) -> views.py (node -> messages)
               address.py (what the setting means)

It only answers questions; nothing can be changed through it, and no answer holds a secret.  Wire format: `rpc/portal_wire.py`.
"""
