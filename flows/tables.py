"""Tables on the console."""

import sys
from collections.abc import Sequence

from data.outside_text import on_terminal


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Header and rows, as wide as they need where output is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(Text(on_terminal(name)))
    for row in rows[1:]:
        # Cells are text and no markup: [red] in a reason is a word.
        table.add_row(*(Text(on_terminal(cell)) for cell in row))
    console.print(table)
