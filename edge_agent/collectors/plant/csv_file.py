"""Tag lists in CSV: the first row names the columns. Comma, semicolon or tab, as the spreadsheet writes them.

Empty cells take the default. Lines that begin with `#` and empty lines are left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_agent.collectors.plant.tags import MAX_TAGS, Row
from shared.errors import ConfigError
from shared.ids import first_duplicate
from shared.suggestions import nearest

MAX_BYTES = 16 << 20
DELIMITERS = ",;\t"


def csv_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Rows of the file at `path` with cells for `columns`; raises ConfigError."""
    return list(parse_csv(_text(path), str(path), columns))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(str(path), f"is larger than {MAX_BYTES} bytes", "Split it into several collectors")
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is no UTF-8 ({error})", "Save it as 'CSV UTF-8'") from error
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "Correct `tags_file`") from error


def parse_csv(text: str, place: str, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of `text`, of which `place` is the file; raises ConfigError."""
    lines = _cells(text, place)
    number, header = next(lines, (1, []))
    names = [cell.strip().lower() for cell in header]
    _check_header(names, f"{place}: line {number}", columns)
    for count, (line, cells) in enumerate(lines):
        if count > MAX_TAGS:
            raise ConfigError(place, f"more than {MAX_TAGS} tags", "Split it into several collectors")
        if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            reason = f"{len(cells)} cells, the first row names {len(names)} columns"
            raise ConfigError(f"{place}: line {line}", reason, 'Put text that contains the separator in quotes "..."')
        values = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}
        yield Row(f"{place}: line {line}", values, text=True)


def _cells(text: str, place: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is neither empty nor a comment."""
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ConfigError(f"{place}: line {line}", f"is no CSV ({error})", "Correct its quotes") from error
        if any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
            yield line, cells


def _check_header(names: Sequence[str], place: str, columns: Sequence[str]) -> None:
    cure = f"The first row must name columns: {', '.join(columns)}"
    for name in names:
        if name not in columns:
            reason = f"there is no column '{name[:80]}'" if name else "a column has no name"
            raise ConfigError(place, f"{reason}{nearest(name, columns)}", cure)
    if (twice := first_duplicate(names)) is not None:
        raise ConfigError(place, f"the column '{twice}' is there twice", cure)
    if "name" not in names:
        raise ConfigError(place, "the column 'name' is missing", cure)
