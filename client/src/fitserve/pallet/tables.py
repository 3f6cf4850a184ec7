"""Tables of signals, read into columns: from files, and from what Python programs have.

Files come from anywhere. What they would take once read is bounded before they are, nothing in
them is run, and nothing outside of them is read.
"""

from __future__ import annotations

import csv
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve.errors import InputError, MissingExtraError
from fitserve.files import read_regular
from fitserve.pallet.schema import decode_json
from fitserve_contract import memory_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    Column = NDArray[np.float64] | list[Any]

__all__ = ["MOST_ROWS", "Table", "read_table"]

MOST_ROWS = 1_000_000
"""No table may have more rows."""

_MOST_COLUMNS = 20_000
# What is read takes no more memory than this share of what there is.
_SHARE = 0.25
# A cell of a text file takes at least two bytes there, and eight as a number.
_GROWTH = 4
_ROWS_AT_ONCE = 4096
_FORMATS = ".csv, .tsv, .json, .parquet, .npz, .h5 or .hdf5"


class Table(NamedTuple):
    """Columns of one length by name.

    A column of numbers is an array, where an empty cell is NaN; any other is a list. ``lines`` says
    where each row is, in ``words`` such as "line". ``source`` is for messages.
    """

    source: str
    columns: dict[str, Column]
    lines: Sequence[int]
    words: str = "row"

    def place(self, row: int, column: str) -> str:
        """Return where a cell is, for a message."""
        return f"{self.words} {self.lines[row]}, column {column!r}"


def read_table(given: object, bins: Sequence[str]) -> Table:
    """Read a table.

    Parameters
    ----------
    given
        The path of a file; a ``dict`` of columns, or of signals by name; a sequence of ``dict``,
        one for each signal; a data frame of pandas or polars, or a table of Arrow; or an array of
        shape (signals, bins). Lists are taken as the bins of a channel.
    bins
        What the columns of an array are called.

    Raises
    ------
    InputError
        It is none of these, or too large.
    MissingExtraError
        The format needs a package that is not installed.

    Examples
    --------
    >>> from fitserve.pallet.tables import read_table
    >>> table = read_table([{"name": "A", "SR": [1, 2.5]}, {"name": "B", "SR": [0, 4]}], [])
    >>> {name: [*map(str, column)] for name, column in table.columns.items()}
    {'name': ['A', 'B'], 'SR[0]': ['1.0', '0.0'], 'SR[1]': ['2.5', '4.0']}
    """
    if isinstance(given, str | Path):
        table = _from_file(Path(given), bins)
    else:
        source = "the signals"
        columns = _columns(given, bins, source)
        table = Table(source, columns, range(1, 1 + _length(columns, source)))
    if len(table.columns) > _MOST_COLUMNS:
        raise InputError(
            f"{table.source} has more columns than a table of signals may have",
            evidence=f"{len(table.columns)}, and {_MOST_COLUMNS} are allowed",
        )
    return table


def _from_file(path: Path, bins: Sequence[str]) -> Table:
    source, suffix = str(path), path.suffix.lower()
    readers: dict[str, Callable[[Path, Sequence[str]], dict[str, Column]]] = {
        ".json": _json,
        ".parquet": _parquet,
        ".npz": _npz,
        ".h5": _hdf5,
        ".hdf5": _hdf5,
    }
    try:
        if suffix in (".csv", ".tsv", ".txt"):
            _fits(source, path.stat().st_size * _GROWTH)
            return _from_text(read_regular(path), source, "\t" if suffix == ".tsv" else ",")
        if suffix not in readers:
            raise InputError(
                f"{source} is no table of signals",
                evidence=f"a table ends with {_FORMATS}",
                hint="fitserve signals template PALLET writes an empty one",
            )
        _fits(source, path.stat().st_size)
        columns = readers[suffix](path, bins)
    except OSError as error:
        raise InputError(
            f"there is no table of signals {source!r}",
            evidence=error.strerror or str(error),
            hint="fitserve signals template PALLET writes an empty one",
        ) from error
    return Table(source, columns, range(1, 1 + _length(columns, source)))


def _fits(source: str, takes: int) -> None:
    if takes > (allowed := _SHARE * memory_there()):
        raise InputError(
            f"{source} is too large",
            evidence=f"it takes some {takes >> 20} MiB once read, and {int(allowed) >> 20} MiB are "
            "allowed here",
            hint="cut it into several tables and make a run of each",
        )


def _rows(source: str, count: int) -> None:
    if count > MOST_ROWS:
        raise InputError(
            f"{source} has more signals than a run may have",
            evidence=f"more than {MOST_ROWS}",
            hint="cut it into several tables and make a run of each",
        )


def _from_text(raw: bytes, source: str, delimiter: str) -> Table:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is no text in UTF-8", evidence=str(error)) from error
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    lines: list[int] = []
    header: list[str] = []
    parts: list[list[Column]] = []
    try:
        rows = (
            row
            for row in reader
            if any(map(str.strip, row)) and not row[0].lstrip().startswith("#")
        )
        header = [name.strip() for name in next(rows, [])]
        _check_header(header, source, reader.line_num)
        while some := list(itertools.islice(_numbered(rows, reader), _ROWS_AT_ONCE)):
            for line, row in some:
                if len(row) != len(header):
                    raise InputError(
                        f"{source} has a row of another length",
                        evidence=f"line {line} has {len(row)} cells, the header {len(header)}",
                    )
            lines += [line for line, _ in some]
            _rows(source, len(lines))
            cells = zip(*(row for _, row in some), strict=True)
            parts.append([_cells(each) for each in cells])
    except csv.Error as error:
        raise InputError(
            f"{source} is no table in CSV", evidence=f"line {reader.line_num}: {error}"
        ) from error
    columns = {
        name: _joined([part[at] for part in parts]) for at, name in enumerate(header) if name
    }
    return Table(source, columns, lines, "line")


def _numbered(rows: Iterable[list[str]], reader: Any) -> Iterator[tuple[int, list[str]]]:
    for row in rows:
        yield reader.line_num, row


def _check_header(header: list[str], source: str, line: int) -> None:
    if not header:
        raise InputError(
            f"{source} is empty", hint="fitserve signals template PALLET writes an empty table"
        )
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise InputError(
            f"{source} has two columns of one name",
            evidence=f"line {line}: {', '.join(map(repr, twice[:3]))}",
        )


def _cells(cells: Sequence[Any]) -> Column:
    """Return cells as numbers, if all of them are, or as they are."""
    try:
        return np.array([cell if cell not in ("", None) else np.nan for cell in cells], np.float64)
    except (TypeError, ValueError, OverflowError):
        return list(cells)


def _joined(parts: Sequence[Column]) -> Column:
    if not parts:
        return np.zeros(0)
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return list(itertools.chain.from_iterable(parts))


def _length(columns: Mapping[str, Column], source: str) -> int:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        some = ", ".join(f"{name!r} {len(column)}" for name, column in list(columns.items())[:4])
        raise InputError(f"the columns of {source} differ in length", evidence=some)
    count = next(iter(lengths), 0)
    _rows(source, count)
    return count


def _json(path: Path, bins: Sequence[str]) -> dict[str, Column]:
    return _columns(decode_json(read_regular(path), str(path)), bins, str(path))


def _columns(given: Any, bins: Sequence[str], source: str) -> dict[str, Column]:
    """Return the columns of what a program has, or of decoded JSON."""
    if isinstance(given, Mapping):
        if given and all(isinstance(one, Mapping) for one in given.values()):
            _rows(source, len(given))
            return _from_records([{"name": name, **one} for name, one in given.items()], source)
        return _expanded({str(name): column for name, column in given.items()}, bins)
    for names in ("column_names", "columns"):  # of Arrow, and of pandas and polars
        if hasattr(given, names) and hasattr(given, "__getitem__"):
            return _from_frame(given, list(getattr(given, names)))
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        if given and all(isinstance(one, Mapping) for one in given):
            _rows(source, len(given))
            return _from_records(given, source)
        given = _array(given)
    if isinstance(given, np.ndarray) and given.ndim == 2:  # noqa: PLR2004 - signals x bins
        return _expanded({"yields": given}, bins)
    raise InputError(
        "these are no signals",
        evidence=f"their type is {type(given).__name__}",
        hint="give the path of a table, a dict, a data frame, or an array of signals x bins",
    )


def _array(values: Any) -> Any:
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError):
        return values


def _from_frame(frame: Any, names: list[Any]) -> dict[str, Column]:
    columns = {str(name): _cells(_values(frame[name])) for name in names}
    index = getattr(frame, "index", None)
    # pandas numbers its rows where they have no names.
    if "name" not in columns and index is not None and type(index).__name__ != "RangeIndex":
        labels = index.names if getattr(index, "nlevels", 1) > 1 else [index.name or "name"]
        for at, label in enumerate(labels):
            values = index.get_level_values(at).tolist()
            columns[str(label)] = (
                [str(one) for one in values] if label == "name" else _cells(values)
            )
    return columns


def _values(column: Any) -> Any:
    array = column.to_numpy()
    return array if array.dtype.kind in "fiu" else array.tolist()


def _from_records(records: Iterable[Mapping[str, Any]], source: str) -> dict[str, Column]:
    flat = [dict(_flattened(record)) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    if len(names) * len(flat) > 50 * sum(map(len, flat)):
        raise InputError(
            f"the signals of {source} hardly have a column in common",
            evidence=f"{len(names)} columns for {len(flat)} signals",
        )
    return {name: _cells([record.get(name) for record in flat]) for name in names}


def _flattened(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the cells of a signal; lists are bins of a channel."""
    for name, value in record.items():
        if isinstance(value, list | tuple | np.ndarray):
            target, colon, more = str(name).partition(":")
            for index, one in enumerate(value):
                yield f"{target}[{index}]{colon}{more}", one
        else:
            yield str(name), value


def _expanded(given: Mapping[str, Any], bins: Sequence[str]) -> dict[str, Column]:
    """Return columns; those of shape (signals, bins) are split.

    ``yields`` and ``stat`` are those of all bins, others those of the channel of that name.
    """
    columns: dict[str, Column] = {}
    for name, values in given.items():
        array = values if isinstance(values, np.ndarray) else _array(values)
        if not isinstance(array, np.ndarray) or array.ndim != 2:  # noqa: PLR2004
            columns[name] = _cells(_plain(values, name))
            continue
        ending = ":stat" if name == "stat" else ""
        if name not in ("yields", "stat"):
            target, colon, more = name.partition(":")
            titles = [f"{target}[{index}]{colon}{more}" for index in range(array.shape[1])]
        elif array.shape[1] != len(bins):
            raise InputError(
                f"{name} does not have one column for each bin",
                evidence=f"it has {array.shape[1]}, there are {len(bins)} bins: "
                f"{', '.join(bins[:4])}, ...",
                hint="fitserve signals template PALLET shows their order",
            )
        else:
            titles = [f"{one}{ending}" for one in bins]
        columns |= {title: array[:, at] for at, title in enumerate(titles)}
    return columns


def _plain(values: Any, name: str) -> Sequence[Any]:
    """Return values of one column as a sequence; text of files may be bytes."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple):
        raise InputError(
            f"column {name!r} is no list of values", evidence=f"it is a {type(values).__name__}"
        )
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in listed]


def _parquet(path: Path, bins: Sequence[str]) -> dict[str, Column]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "parquet") from error
    try:
        with parquet.ParquetFile(path) as file:
            metadata = file.metadata
            _rows(str(path), metadata.num_rows)
            _fits(str(path), 8 * metadata.num_rows * metadata.num_columns)
            return _columns(file.read(), bins, str(path))
    except (ArrowException, ValueError) as error:
        raise InputError(f"{path} cannot be read as Parquet", evidence=str(error)) from error


def _npz(path: Path, bins: Sequence[str]) -> dict[str, Column]:
    try:
        with zipfile.ZipFile(path) as archive:
            _fits(str(path), sum(member.file_size for member in archive.infolist()))
        with np.load(path, allow_pickle=False) as arrays:
            return _expanded({name: arrays[name] for name in arrays.files}, bins)
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path} cannot be read as arrays", evidence=str(error)) from error


def _hdf5(path: Path, bins: Sequence[str]) -> dict[str, Column]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading HDF5", "hdf5") from error
    arrays: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                # A link, and data stored elsewhere, would lead to other files.
                here = isinstance(file.get(name, getlink=True), h5py.HardLink)
                data = file[name] if here else None
                if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
                    raise InputError(
                        f"{path} has more than arrays in it",
                        evidence=f"{name!r} is a group, a link, or stored elsewhere",
                    )
                _fits(str(path), data.nbytes)
                arrays[name] = data[()]
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as HDF5", evidence=str(error)) from error
    return _expanded(arrays, bins)
