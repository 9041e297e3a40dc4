"""The HTTP side of control: the page, /metrics, /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gnomon_server.control import page
from gnomon_server.control.page import View
from gnomon_server.control.ports import split
from gnomon_server.errors import InvalidRequest
from gnomon_server.telemetry import Snapshot, metrics_page

# A page of our own needs nothing from elsewhere, and nobody else may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Web:
    """An HTTP server on control's event loop."""

    def __init__(
        self,
        view: Callable[[], Awaitable[View]],
        snapshot: Callable[[], Snapshot],
        ready: Callable[[], bool],
        away: Callable[[], str],
    ) -> None:
        """Takes what there is to show: `away` says since when the store is, or nothing."""
        self._view, self._snapshot, self._ready, self._away = view, snapshot, ready, away
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, address: str) -> int:
        """Begins to listen; returns the port, raises InvalidRequest if the address cannot be had."""
        host, port = split(address)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise InvalidRequest(f"cannot listen on {address}: {error.strerror}") from None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Closes it."""
        await self._runner.cleanup()

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=page.render(await self._view()), content_type="text/html", headers=HEADERS)

    async def _metrics(self, _: web.Request) -> web.Response:
        body, content_type = metrics_page(self._snapshot())
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._ready()
        # A server answers as before while the store is away.
        detail = f"{away}\n" if (away := self._away()) else ""
        return web.Response(text=f"{'ready' if ready else 'not ready'}\n{detail}", status=200 if ready else 503)
