"""Who may ask the dashboard: whoever has the token, by a page of this server alone.

Other users of the machine can reach its port, and so can any page that is open in the user's browser. The token keeps
out the first; the second is kept out by the cookie, which is sent with requests of this server's own pages only, and by
the names of the host and the origin, which a page of another one cannot give (DNS rebinding).
"""

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
"""The names by which the server may be called; a tunnel may have any port."""
METHODS = ("GET", "HEAD")
TOKEN_HEADER = "x-shardtune-token"
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
REVALIDATED = {"cache-control": "no-cache"}
"""Of files of the page, which hold nothing of runs: a browser may keep them, but asks whether they have changed."""
ENTER = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/"><a href="/">shardtune</a>'


class Guard:
    """An ASGI application that lets only such requests through to another one, and adds the headers to its answers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        # Browsers keep cookies by host without its port: two dashboards must not overwrite each other's.
        self.cookie = f"shardtune_{sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither WebSockets nor anything else is served
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                rules = HEADERS | (REVALIDATED if scope["path"].startswith("/static/") else {})
                extra = [(name.encode(), value.encode()) for name, value in rules.items() if name.encode() not in own]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        answer = self._refusal(scope, headers) or self._entry(scope, headers)
        await (answer or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """The answer to a request that no token makes good; None if there is nothing wrong with it."""
        if scope["method"] not in METHODS:
            return PlainTextResponse("only GET and HEAD", 405, {"allow": ", ".join(METHODS)})
        names = [value for name, value in scope["headers"] if name == b"host"]
        if len(names) != 1 or not HOSTS.fullmatch(headers["host"]):
            return PlainTextResponse("this server is called 127.0.0.1 or localhost, and by no other name", 403)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{headers['host'].lower()}":
            return PlainTextResponse("only the pages of this server may ask it", 403)
        return None

    def _entry(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """The answer to a request that brings the token in its URL, or has none; None for one that may pass."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token") if scope["path"] == "/" else None
        if given is not None:
            if len(given) != 1 or not self._is_token(given[0]):
                return PlainTextResponse(WRONG, 401)
            # A browser that comes from another site, such as a terminal on a web page, sends no strict cookie with
            # the request that a redirect makes, but does so with one that a page of ours makes.
            comes_from_elsewhere = headers.get("sec-fetch-site") == "cross-site"
            answer = HTMLResponse(ENTER) if comes_from_elsewhere else RedirectResponse("/", 303)
            answer.set_cookie(self.cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        token = headers.get(TOKEN_HEADER) or self._from_cookie(headers.get("cookie", ""))
        return None if self._is_token(token) else PlainTextResponse(WRONG, 401)

    def _from_cookie(self, text: str) -> str:
        for part in text.split(";"):
            try:
                cookie = SimpleCookie(part.strip())
            except CookieError:  # of another server on this host
                continue
            if self.cookie in cookie:
                return cookie[self.cookie].value
        return ""

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode())


WRONG = "open the address with the token that `shardtune dashboard` has printed"
