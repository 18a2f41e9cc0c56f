"""Only whoever has the token is answered, only by the names of this machine, and nothing but what is meant to be."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shardtune.launcher.dashboard.server import welcome
from tests.launcher.dashboard.conftest import BEGIN, START, Browser, steps, write_run

Open = Callable[[Path], Browser]
EVERY_PATH = ("/", "/api/runs", "/api/series", "/api/stream", "/static/index.html", "/api/runs/x", "/api/runs/x/log")


@pytest.mark.parametrize("path", EVERY_PATH)
def test_nothing_is_told_without_the_token(path: str, tmp_path: Path, open_dashboard: Open) -> None:
    browser = open_dashboard(tmp_path)
    wrong = browser.dashboard.token[:-1] + ("A" if browser.dashboard.token[-1] != "A" else "B")
    for token in (None, "", wrong, browser.dashboard.token.lower() + "x", "é"):
        status, headers, body = browser.ask(path, X_Shardtune_Token=token)
        assert (status, headers["x-content-type-options"]) == (401, "nosniff")
        assert browser.dashboard.token.encode() not in body
    assert browser.ask(path, X_Shardtune_Token=None, Cookie=f"{browser_cookie(browser)}={wrong}")[0] == 401


def browser_cookie(browser: Browser) -> str:
    """The name of the cookie, as the entry sets it."""
    _, headers, _ = browser.ask(f"/?token={browser.dashboard.token}", X_Shardtune_Token=None)
    return headers["set-cookie"].partition("=")[0]


def test_the_url_gives_a_cookie_that_no_script_and_no_other_site_can_use(tmp_path: Path, open_dashboard: Open) -> None:
    browser = open_dashboard(tmp_path)
    path = browser.dashboard.url.partition(str(browser.dashboard.port))[2]
    status, headers, _ = browser.ask(path, X_Shardtune_Token=None)
    assert (status, headers["location"]) == (303, "/")
    cookie, *rules = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict"} <= set(rules)
    assert browser.ask("/", X_Shardtune_Token=None, Cookie=f"other=1; bad[=]; {cookie}")[0] == 200
    assert browser.ask("/?token=wrong", Cookie=cookie)[0] == 401
    # A strict cookie is not sent with a redirect that another site has caused, but with what a page of ours asks for.
    status, headers, body = browser.ask(path, X_Shardtune_Token=None, Sec_Fetch_Site="cross-site")
    assert status == 200 and cookie in headers["set-cookie"] and b'content="0; url=/"' in body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:1:2", "", "10.0.0.1:8321", None])
def test_a_name_that_somebody_else_has_pointed_at_this_machine_is_refused(
    host: str | None, tmp_path: Path, open_dashboard: Open
) -> None:
    assert open_dashboard(tmp_path).ask("/api/runs", Host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:1", "[::1]:8080", "localhost"])
def test_a_tunnel_may_have_any_port(host: str, tmp_path: Path, open_dashboard: Open) -> None:
    browser = open_dashboard(tmp_path)
    assert browser.ask("/api/runs", Host=host)[0] == 200
    assert browser.ask("/api/runs", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://localhost:1", "https://127.0.0.1", ""])
def test_pages_of_other_servers_are_refused(origin: str, tmp_path: Path, open_dashboard: Open) -> None:
    assert open_dashboard(tmp_path).ask("/api/runs", Origin=origin)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_can_be_changed(method: str, tmp_path: Path, open_dashboard: Open) -> None:
    assert open_dashboard(tmp_path).ask("/api/runs", method)[0] == 405


def test_head_has_the_headers_and_no_body(tmp_path: Path, open_dashboard: Open) -> None:
    status, headers, body = open_dashboard(tmp_path).ask("/", "HEAD")
    assert (status, body) == (200, b"")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/api/runs/..%2f",
        "/api/runs/../../etc/passwd", "/api/runs/%2e%2e/log", "/static/%00", "/api/runs/a%00b",
    ],
)  # fmt: skip
def test_no_path_leads_out(path: str, tmp_path: Path, open_dashboard: Open) -> None:
    (tmp_path / "secret").write_text("secret")
    status, _, body = open_dashboard(tmp_path).ask(path)
    assert 400 <= status < 500 and b"Starlette" not in body and b"root:" not in body


def test_a_log_that_lies_elsewhere_is_not_shown(tmp_path: Path, open_dashboard: Open) -> None:
    (tmp_path / "secret.txt").write_text("secret\n")
    run_dir = write_run(tmp_path / "runs" / "a", [BEGIN, START, *steps(3)])
    (run_dir / "logs" / "rank-0.log").symlink_to(tmp_path / "secret.txt")
    browser = open_dashboard(tmp_path / "runs")
    (row,) = browser.runs().values()
    assert browser.get(f"/api/runs/{row['id']}/log") == {"file": "", "lines": []}
    (run_dir / "logs" / "rank-0.log").unlink()
    (run_dir / "logs" / "rank-0.log").write_text("a\nbar  1%\rbar  2%\nc\n")
    assert browser.get(f"/api/runs/{row['id']}/log", lines=2) == {"file": "logs/rank-0.log", "lines": ["bar  2%", "c"]}
    assert browser.ask(f"/api/runs/{row['id']}/log?lines=x")[0] == 400


def test_it_listens_on_this_machine_alone_and_says_how_to_reach_it(tmp_path: Path, open_dashboard: Open) -> None:
    dashboard = open_dashboard(tmp_path).dashboard
    assert dashboard.socket.getsockname()[0] == "127.0.0.1"
    text = welcome(dashboard, "runs")
    port = dashboard.port
    assert f"http://127.0.0.1:{port}/?token={dashboard.token}\n" in text
    assert re.search(rf"ssh -N -L {port}:127\.0\.0\.1:{port} \S+@\S+\n", text)
    assert len(dashboard.token) >= 32 and open_dashboard(tmp_path).dashboard.token != dashboard.token
