"""The API reference: a page for each room, and the table of them."""

from collections.abc import Sequence

from repository import Room

MARKER = "<!-- rooms -->"


def pages(rooms: Sequence[Room]) -> dict[str, str]:
    """Give the text of each page by its path in the site."""
    return {path(room): _page(room) for room in rooms}


def path(room: Room) -> str:
    """Give the path of a room's page."""
    return f"api/{room.title}.md"


def listed(rooms: Sequence[Room]) -> str:
    """Give the table of all rooms."""
    rows = [f"| [`{room.name}`]({room.title}.md) | {_first(room.text)} | {len(room.names)} |" for room in rooms]
    return "\n".join(["| room | holds | names |", "|---|---|---|", *rows])


def _page(room: Room) -> str:
    rows = [f"| [`{one.name}`][{room.name}.{one.name}] | {_cell(one.summary)} |" for one in room.names]
    blocks = [block for one in room.names for block in (f"::: {room.name}.{one.name}", "")]
    return "\n".join(
        [
            f"# {room.title}",
            "",
            f"`{room.name}`",
            "",
            room.text,
            "",
            "| name | |",
            "|---|---|",
            *rows,
            "",
            "## Reference",
            "",
            *blocks,
        ]
    )


def _first(text: str) -> str:
    return _cell(text.partition("\n")[0])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
