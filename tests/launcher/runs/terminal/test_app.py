"""`shardtune watch` in a terminal of 80 by 24, driven by its keys."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot

from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.terminal.app import WatchApp
from shardtune.launcher.runs.terminal.poller import Poller
from tests.support.hand_made_run import event, life, lines, step, write_run
from tests.support.retained_run import write_retained_run

WITHIN_S = 60.0
Body = Callable[[Pilot[None], WatchApp], Awaitable[None]]


def watch(
    body: Body, *run_dirs: Path, size: tuple[int, int] = (80, 24), is_ascii: bool = False, no_color: bool = False
) -> WatchApp:
    """Runs the app on these runs, or on all known ones, until the body is through."""
    poller = Poller(lambda jobs: list(run_dirs) or monitor.known_run_dirs(jobs), is_fixed=bool(run_dirs))
    app = WatchApp(poller, is_ascii=is_ascii, no_color=no_color)

    async def drive() -> None:
        async with app.run_test(size=size) as pilot:
            await body(pilot, app)

    asyncio.run(drive())
    return app


def screen(app: WatchApp) -> list[str]:
    """The lines on the screen."""
    return [strip.text for strip in app.screen._compositor.render_strips()]


async def shows(pilot: Pilot[None], app: WatchApp, *texts: str) -> list[str]:
    """The lines on the screen, as soon as they show all of the texts. Fails if that takes too long."""

    def is_shown() -> bool:
        return all(text in "\n".join(screen(app)) for text in texts)

    await becomes(pilot, is_shown, lambda: (texts, "\n".join(screen(app))))
    return screen(app)


async def becomes(pilot: Pilot[None], is_so: Callable[[], bool], found: Callable[[], object] = tuple) -> None:
    """Waits until it is so. Fails, with what was found, if that takes too long."""
    until = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < until, found()
        await pilot.pause(0.05)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A run that is going on, a finished one, and one with a Chinese name that has failed."""
    going_on = write_run(tmp_path / "runs" / "going-on", life(60), is_going_on=True)
    finished = write_run(tmp_path / "runs" / "done", [*life(100), event("done", 1_796_000_200.0, step=100)])
    (finished / "results.json").write_text("{}")
    failed = write_run(tmp_path / "runs" / "翻译-中英", life(30))
    (failed / "logs" / "rank-1.failure.json").write_text(
        '{"rank": 1, "host": "node1", "time": 1796000300.0, "code": 1, "text": "KeyError: 3"}'
    )
    (going_on / "logs" / "rank-0.log").write_text("\x1b[31m加载模型权重：\x1b[0m 第一个分片\n" * 30, encoding="utf-8")
    return [going_on, finished, failed]


def test_the_list_has_the_numbers_of_every_run_and_the_chart_those_of_the_chosen_one(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        shown = await shows(
            pilot, app, "3 runs: 1 running, 1 finished, 1 failed", "┤", "1.0000  1.0000", "0.3000  0.3000"
        )
        assert len(shown) == 24 and {cell_len(line) for line in shown} == {80}
        assert shown[1].split() == ["RUN", "STATE", "STEP", "LEFT", "LOSS", "F1", "BEST", "TOK/S"]
        assert shown[2].split() == [
            "▸", "going-on", "running", "60/100", "0:40", "0.0333", "0.6000", "0.6000", "48.0k",
        ]  # fmt: skip
        assert shown[3].split() == ["done", "finished", "100/100", "0.0200", "1.0000", "1.0000"]
        assert shown[4].split()[:2] == ["翻译-中英", "failed"]
        assert "1 charts" in shown[6] and shown[7].startswith(" loss  0.03333  o dev 0.5")
        await pilot.press("j", "down")
        assert "failed  KeyError: 3" in (await shows(pilot, app, "▸ 翻译-中英"))[5]
        await pilot.press("end", "k", "home")
        await shows(pilot, app, "▸ going-on")

    watch(body, *runs)


def test_a_new_line_is_shown_and_a_truncated_file_begins_anew(runs: list[Path]) -> None:
    metrics = runs[0] / "metrics.jsonl"

    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100")
        with metrics.open("ab") as file:
            file.write(lines([step(77, 1_796_000_090.0)])[:-30])
            file.flush()
            await pilot.pause(1.5)
            assert "77/100" not in "\n".join(screen(app))
            file.write(lines([step(77, 1_796_000_090.0)])[-30:])
        await shows(pilot, app, "77/100", "0.0260")
        metrics.write_bytes(lines(life(9)))
        await shows(pilot, app, " 9/100", "0.2222")

    watch(body, runs[0])


def test_a_folder_that_vanishes_is_gone_and_its_numbers_stay(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100", "running")
        shutil.rmtree(runs[0])
        await shows(pilot, app, "gone", "60/100", "this is what was read of it")

    assert watch(body, runs[0]).exit_code == 1


def test_every_panel_shows_the_chosen_run(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100")
        await pilot.press("tab")
        await shows(pilot, app, "2 ranks on cuda", "node1, GPU 1", "100.0%")
        await pilot.press("3")
        await shows(pilot, app, "1 start, 0 warnings", "no faults so far")
        await pilot.press("tab")
        await shows(pilot, app, "was useful", "waiting for the slowest rank")
        await pilot.press("5")
        await shows(pilot, app, "step 60: dev", "events (o: next)")
        await pilot.press("o")
        shown = await shows(pilot, app, "加载模型权重： 第一个分片", "rank-0 (o: next)")
        assert {cell_len(line) for line in shown} == {80}
        await pilot.press("o")
        await shows(pilot, app, "events (o: next)")
        await pilot.press("shift+tab", "shift+tab", "shift+tab", "shift+tab")
        await shows(pilot, app, " loss  0.0333")

    watch(body, runs[0])


def test_the_charts_follow_the_keys(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100", "smoothed 0.9, linear, by step")
        await pilot.press("m")
        await shows(pilot, app, " learning rate  1.0e-05")
        await pilot.press("m", "m", "m")
        await shows(pilot, app, " dev/f1  0.6")
        await pilot.press("M", "s", "l", "x")
        await shows(pilot, app, " peak memory of a rank, GB  40", "smoothed 0.99, log, by time")
        await pilot.press("s", "s", "l", "x")
        await shows(pilot, app, "smoothed 0.9, linear, by step")

    watch(body, runs[0])


def test_what_is_retained_is_in_the_line_of_the_chosen_run_and_among_the_curves(tmp_path: Path) -> None:
    run = write_retained_run(tmp_path / "kept")

    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "retains news accuracy 0.8280 (-0.0720)")
        while not any("retention/wiki/perplexity" in line for line in screen(app)):
            await pilot.press("M")
        await shows(pilot, app, "retention/wiki/perplexity")

    watch(body, run, size=(120, 24))


def test_marked_runs_are_drawn_with_the_chosen_one(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "3 runs: 1 running, 1 finished, 1 failed")
        await pilot.press("space", "j")
        await shows(pilot, app, " ●going-on", "▸ done", " loss  ━ going-on 0.03333  ━ done 0.02")
        await pilot.press("c")
        await shows(pilot, app, " loss  0.02  o dev 0.5")

    watch(body, *runs)


def test_a_large_terminal_has_the_four_main_charts_and_a_resize_draws_anew(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        titles = (" loss ", " learning rate ", " tokens/s ", " peak memory of a rank, GB ")
        shown = await shows(pilot, app, "60/100", *titles)
        assert (len(shown), len(shown[0])) == (40, 120)
        await pilot.resize_terminal(80, 24)
        await becomes(pilot, lambda: len(screen(app)) == 24 and "tokens/s" not in "".join(screen(app)[5:]))
        assert {cell_len(line) for line in await shows(pilot, app, " loss ")} == {80}
        await pilot.resize_terminal(20, 6)
        await becomes(pilot, lambda: (len(screen(app)), len(screen(app)[0])) == (6, 20))

    watch(body, runs[0], size=(120, 40))


def test_the_mouse_chooses_runs_and_panels(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "3 runs: 1 running, 1 finished, 1 failed")
        await pilot.click("#runs", offset=(5, 1))
        await shows(pilot, app, "▸ done")
        await pilot.click("#tabs", offset=(24, 0))
        await shows(pilot, app, "1 start, 0 warnings")

    watch(body, *runs)


def test_a_terminal_without_colours_and_other_letters_gets_neither(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "3 runs: 1 running, 1 finished, 1 failed")
        await pilot.press("space", "j")
        await shows(pilot, app, "a going-on")
        everything = "\n".join(screen(app))
        assert everything.isascii() and ">" in everything and "????-????" in everything
        styles = [
            segment.style for strip in app.screen._compositor.render_strips() for segment in strip if segment.style
        ]
        assert all(style.color is None or style.color.is_default for style in styles)
        assert all(style.bgcolor is None or style.bgcolor.is_default for style in styles)

    watch(body, *runs, is_ascii=True, no_color=True)


def test_no_color_of_the_environment_counts(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100")
        colours = {segment.style.color for strip in app.screen._compositor.render_strips() for segment in strip
                   if segment.style and segment.style.color}  # fmt: skip
        assert all(colour.is_default for colour in colours)

    watch(body, runs[0])


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_quitting_leaves_the_run_alone_and_has_the_exit_code_of_what_was_shown(runs: list[Path], key: str) -> None:
    before = {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()}

    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100")
        await pilot.press(key)
        await becomes(pilot, lambda: not app.is_running)

    app = watch(body, runs[0])
    assert app.exit_code == 130  # it is still going on
    assert {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()} == before


def test_a_run_that_ends_stays_on_the_screen_with_how_it_ended(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100", "running")
        with (runs[0] / "metrics.jsonl").open("ab") as file:
            file.write(lines([event("stopped", 1_796_000_099.0, step=60, reason="Ctrl-C")]))
        (runs[0] / "lease.json").unlink()
        shown = await shows(pilot, app, "1 run: 1 stopped", "stopped  Ctrl-C")
        assert "60/100" in shown[2]

    assert watch(body, runs[0]).exit_code == 75


def test_without_names_all_known_runs_are_shown_those_going_on_first(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        shown = await shows(pilot, app, "3 runs: 1 running")
        assert "going-on" in shown[2]
        write_run(runs[0].parent / "a-newer-one", life(3))
        app._poller._find_at = 0.0
        await shows(pilot, app, "4 runs", "a-newer-one")

    watch(body)


def test_many_runs_are_a_list_that_scrolls(tmp_path: Path) -> None:
    run_dirs = [write_run(tmp_path / "many" / f"run-{number:03}", life(2)) for number in range(60)]

    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60 runs: 60 lost", "▸ run-000")
        await pilot.press("end")
        shown = await shows(pilot, app, "▸ run-059")
        assert "run-000" not in "\n".join(shown)

    watch(body, *run_dirs)


def test_help_names_the_keys_and_any_key_closes_it(runs: list[Path]) -> None:
    async def body(pilot: Pilot[None], app: WatchApp) -> None:
        await shows(pilot, app, "60/100")
        await pilot.press("question_mark")
        await shows(pilot, app, "logarithmic values", "wandb leet")
        await pilot.press("z")
        await shows(pilot, app, "60/100")

    watch(body, runs[0])
