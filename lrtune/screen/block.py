"""Lines at the bottom of a terminal that are drawn again in place."""

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment, SegmentLines

PER_SECOND = 4


class Block:
    """A rich Live that leaves nothing behind when the terminal gets narrower."""

    def __init__(self, console: Console) -> None:
        """Draw nothing yet."""
        self._console = console
        self._content: RenderableType = ""
        self._drawn: list[int] = []  # cells of each line that stands there
        self._live = Live(
            console=console,
            get_renderable=self.lines,
            refresh_per_second=PER_SECOND,
            transient=True,
        )

    def show(self, content: RenderableType) -> None:
        """Show this from the next refresh on."""
        self._content = content
        if not self._live.is_started:
            self._live.start(refresh=True)

    def close(self) -> None:
        """Take it away."""
        self._live.stop()
        self._drawn = []

    def lines(self) -> RenderableType:
        """What is drawn next; the cursor is where rich expects it."""
        console = self._console
        # Terminals fold lines that no longer fit; rich would go back up by too few of them.
        folded = sum(max(0, cells - 1) // console.width for cells in self._drawn)
        if folded:
            up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            console.control(Control(*(step for _ in range(folded) for step in up)))
        options = console.options.update(height=None)
        lines = console.render_lines(self._content, options, pad=False)[: console.height]
        self._drawn = [Segment.get_line_length(line) for line in lines]
        return SegmentLines(lines, new_lines=True)
