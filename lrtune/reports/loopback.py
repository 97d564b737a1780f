"""A web server for this machine's own browser, and for nobody else's pages."""

from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from lrtune.errors import InputError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
FRAMED = ("Content-Security-Policy", "frame-ancestors 'none'")  # else clicks could be stolen
OURS = {HOST, "localhost"}  # whatever the port: it may come through a tunnel


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a page that is being loaded does not hold up the end


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line a request would scroll the address away."""


def server_of(app: "WSGIApplication", port: int | None, preferred: int) -> WSGIServer:
    """A server that listens on loopback already; ``serve_forever`` makes it answer.

    Args:
        app: what it serves.
        port: that one; 0 any that is free; None the preferred one, or any if it is taken.
        preferred: a port.

    Raises:
        InputError: the port cannot be had.
    """
    guarded = _guarded(app)
    if port is None:
        try:
            return make_server(HOST, preferred, guarded, _Server, _Quiet)
        except OSError:
            port = 0
    try:
        return make_server(HOST, port, guarded, _Server, _Quiet)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port={port}: cannot be had ({error}): give another --port, or none"
        ) from error


def _guarded(app: "WSGIApplication") -> "WSGIApplication":
    """Refuses what another site's page asks for: the app itself asks nobody who they are."""

    def answer(environ: "WSGIEnvironment", begin: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return begin(status, [*headers, FRAMED], *more)

        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if _name(host) in OURS and origin in (None, f"http://{host}"):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"This server answers pages of its own alone."]

    return answer


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
