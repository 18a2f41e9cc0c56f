"""The dev metric by seconds of training as SVG: shardtune's curve, and where the peer ends."""

from collections.abc import Sequence

from benchmarks.quality.sides import OURS, PEER
from benchmarks.quality.verdict import Compared
from shardtune.run_dir.view.chart import HEIGHT, WIDTH, Series, render_chart
from shardtune.run_dir.view.curves import STYLE

BLUE, ORANGE = "#1f6feb", "#d9730d"


def draw(compared: Sequence[Compared]) -> str:
    """A chart for each data set, side by side."""
    charts = [
        render_chart(
            f"{each.name}: dev {each.metric} by seconds of training",
            [
                Series(OURS, each.curve, BLUE, dots=True),
                Series(
                    f"{PEER}, at its end", [(0.0, each.target), (each.train_s[PEER], each.target)], ORANGE, dots=True
                ),
            ],
        ).replace("<svg ", f'<svg x="{number * WIDTH}" y="0" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for number, each in enumerate(compared)
    ]
    width = WIDTH * len(charts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">'
    return f'{head}<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(charts)}</svg>\n'
