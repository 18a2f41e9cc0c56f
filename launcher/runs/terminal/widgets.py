"""The widgets of `shardtune watch`: lines of text that scroll, the panel's tabs, and a chart that fits its room."""

from collections.abc import Callable, Sequence

from rich.text import Text
from textual import events
from textual.app import RenderResult
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget


class Lines(ScrollView, can_focus=False):
    """Lines of text, cut at the width; they scroll if there are more than the height."""

    class Clicked(Message):
        """A click on a line."""

        def __init__(self, lines: "Lines", number: int) -> None:
            super().__init__()
            self.lines, self.number = lines, number

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._lines: list[Text] = []

    @property
    def lines(self) -> Sequence[Text]:
        """What is shown."""
        return self._lines

    def show(self, lines: Sequence[Text]) -> None:
        """Shows these lines; where it is scrolled to its end, it stays there."""
        if list(lines) == self._lines:
            return
        self._lines = list(lines)
        self.virtual_size = Size(0, len(self._lines))
        self.refresh()

    def show_line(self, number: int) -> None:
        """Scrolls so that this line is seen."""
        top = round(self.scroll_offset.y)
        if number < top or number >= top + self.size.height:
            self.scroll_to(y=max(0, number - self.size.height // 2), animate=False, force=True)

    def render_line(self, y: int) -> Strip:
        number, width = y + round(self.scroll_offset.y), self.size.width
        if number >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        segments = self._lines[number].render(self.app.console)
        return Strip(segments).adjust_cell_length(width).apply_style(self.rich_style)

    def on_click(self, event: events.Click) -> None:
        """Tells which line it was."""
        if (number := event.y + round(self.scroll_offset.y)) < len(self._lines):
            self.post_message(self.Clicked(self, number))


class TextLine(Widget, can_focus=False):
    """A line of text."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._text = Text()

    def show(self, text: Text) -> None:
        """Shows the text."""
        if text != self._text:
            self._text = text
            self.refresh()

    def render_line(self, y: int) -> Strip:
        segments = self._text.render(self.app.console) if y == 0 else []
        return Strip(segments).adjust_cell_length(self.size.width).apply_style(self.rich_style)

    def render(self) -> RenderResult:
        return self._text


class Tabs(TextLine):
    """The names of the panels, of which one is chosen."""

    class Chosen(Message):
        """A click on a name."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, names: Sequence[str], *, id: str) -> None:
        super().__init__(id=id)
        self._names = [f" {number} {name} " for number, name in enumerate(names, start=1)]

    def choose(self, chosen: int, note: str) -> None:
        """Shows which panel is chosen, and a note at the right."""
        text = Text(no_wrap=True)
        for number, name in enumerate(self._names):
            text.append(name, style="reverse bold" if number == chosen else "")
        room = self.size.width - len(text)
        text.append(note[: max(0, room - 1)].rjust(max(0, room)), style="bright_black")
        self.show(text)

    def on_click(self, event: events.Click) -> None:
        """Tells which name it was."""
        end = 0
        for number, name in enumerate(self._names):
            if end <= event.x < (end := end + len(name)):
                self.post_message(self.Chosen(number))


class ChartView(Widget, can_focus=False):
    """A chart, drawn again when its data or its room have changed."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._draw: Callable[[int, int], list[Text]] = lambda width, height: []
        self._drawn: list[Text] | None = None
        self._drawn_size = Size(0, 0)

    def show(self, draw: Callable[[int, int], list[Text]]) -> None:
        """Shows what `draw(width, height)` gives."""
        self._draw, self._drawn = draw, None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if self._drawn is None or self._drawn_size != self.size:
            self._drawn, self._drawn_size = self._draw(*self.size), self.size
        segments = self._drawn[y].render(self.app.console) if y < len(self._drawn) else []
        return Strip(segments).adjust_cell_length(self.size.width).apply_style(self.rich_style)
