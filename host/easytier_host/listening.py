"""Opens the doors for neighbours: the listeners of the configuration, and their twins for IPv6."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from anyio.abc import TaskGroup

from easytier_host import tunnel as tunnels
from easytier_host.tunnel.base import Listener, Tunnel, TunnelError
from easytier_host.tunnel.url import TunnelUrl

logger = logging.getLogger("easytier.node")


async def open_listeners(
    urls: Sequence[str], opened: list[Listener], tasks: TaskGroup, on_tunnel: Callable[[Tunnel], None], *, ipv6: bool
) -> None:
    """Listen at all `urls`, with `ipv6` at `[::]` beside each `0.0.0.0` too; each goes into `opened` at once.

    Raises `TunnelError` for the first that cannot be had; of the twins that is only logged.
    """
    wanted = [TunnelUrl.parse(text) for text in urls]
    for url in wanted:
        listener = await tunnels.listen(url, tasks, on_tunnel)
        opened.append(listener)
        twin = TunnelUrl(url.scheme, "::", TunnelUrl.parse(listener.url).port)
        if url.host == "0.0.0.0" and ipv6 and twin not in wanted:
            try:
                opened.append(await tunnels.listen(twin, tasks, on_tunnel))
            except TunnelError as error:
                logger.debug("no IPv6 listener beside %s: %s", url, error)
