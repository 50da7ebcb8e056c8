"""The program in a browser: textual-serve's pages and websocket, for the browser pages that it served itself and for no others.

A browser lets any web site open a websocket to any address, and names the site in `Origin` (RFC 6455, 10.2); a site may also
let its own name point here, which then stands in `Host`.  Both must be the address that is served.  It is no password: programs
of the machine can connect.  `main` alone uses it, with the extra `serve`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final

from aiohttp import web
from textual_serve.server import Server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that open pages get to end."""


class GuardedServer(Server):
    """Shows what `command` shows, a new process for each page."""

    def __init__(self, command: str, host: str, port: int, title: str) -> None:
        name = f"[{host}]" if ":" in host else host
        super().__init__(command, host=host, port=port, title=title, public_url=f"http://{name}:{port}")
        names = {name, "localhost"} if ip_address(host).is_loopback else {name}
        self._authorities = {f"{each}:{port}" for each in names} | (names if port == 80 else set())

    def run(self, said: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; `said` gets the URL once pages can be opened.  Raises OSError if they cannot."""
        web.run_app(
            self._make_app(),
            host=self.host,
            port=self.port,
            print=lambda *_: said(self.public_url),
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        app.on_response_prepare.append(_forbid_frames)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: the port may still be in use."""

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin", "")
        is_own_page = origin.removeprefix("http://") in self._authorities and origin.startswith("http://")
        # Only a websocket always has an origin.
        if request.host not in self._authorities or not (is_own_page or (not origin and request.path != "/ws")):
            raise web.HTTPForbidden(text=f"only pages of {self.public_url} are answered\n")
        return await handler(request)


async def _forbid_frames(request: web.Request, response: web.StreamResponse) -> None:
    # Else another site could show the page invisibly and let the user press its keys.
    response.headers["Content-Security-Policy"] = "frame-ancestors 'none'"
