"""Files as nobody should have to read them: `python -m tests.client.files.hostile FOLDER` writes them all.

Each has the beginning of the first sentence with which it is refused, or the rows that it holds.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]


@dataclass(frozen=True)
class Hostile:
    """`content` is the file's, or makes a file or folder at a path."""

    name: str
    content: bytes | Callable[[Path], None]
    says: str = ""
    """How the first problem begins."""
    rows: tuple[Row, ...] = ()
    """The first rows, if the file can be read."""
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def csv(text: str, encoding: str = "utf-8") -> bytes:
    return text.encode(encoding)


def packed(members: Mapping[str, bytes], **changes: Any) -> Callable[[Path], None]:
    """A zip; `changes` are attributes of all members."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = changes.get("external_attr", 0)
                archive.writestr(info, content)
        if changes.get("flag_bits"):
            content = bytearray(path.read_bytes())
            for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
                content[content.index(magic) + offset] |= changes["flag_bits"]
            path.write_bytes(content)

    return write


def lying(path: Path) -> None:
    """A zip that claims less for a member than is in it."""
    packed({"a.csv": b"v\n" + b"1\n" * 100_000, "b.csv": b"v\n1\n"})(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<L", 200_002), struct.pack("<L", 4)))


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


PLAIN = parquet(pa.table({"v": list(range(1000))}))


def varint(number: int) -> bytes:
    """As thrift writes it, zigzag."""
    number, found = number * 2, bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def with_rows(claimed: int) -> bytes:
    """PLAIN, whose footer claims another number of rows."""
    length = int.from_bytes(PLAIN[-8:-4], "little")
    footer = PLAIN[-8 - length : -8].replace(varint(1000), varint(claimed))
    return PLAIN[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def folder(members: Mapping[str, str], link: str | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        for name, text in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        if link:
            (path / link).symlink_to("/etc/passwd")

    return write


TWO = ({"a": 1, "b": "x"}, {"a": 2, "b": "y"})
SIXTEEN = "a,b\n1,x\n2,y\n"
DEEP = '{"a":' * 1000 + "1" + "}" * 1000 + "\n"
BOMB = b"a,b\n" + b"1,2\n" * (8 << 20)
WHERE = "the byte 0x81 is a letter neither in UTF-8 nor in Windows-1252"

FILES = (
    Hostile("mark.csv", b"\xef\xbb\xbf" + SIXTEEN.encode(), rows=TWO),
    Hostile("sixteen.csv", SIXTEEN.encode("utf-16"), rows=TWO, notes=("The file is UTF-16 text.",)),
    Hostile("sixteen_big.csv", b"\xfe\xff" + SIXTEEN.encode("utf-16-be"), rows=TWO),
    Hostile("sixteen_without_mark.csv", SIXTEEN.encode("utf-16-le"), rows=TWO),
    Hostile(
        "sixteen_cut_off.csv", SIXTEEN.encode("utf-16")[:-1], says="line 3: the file is cut off within a character"
    ),
    Hostile(
        "semicolons.csv",
        csv("a;b\n1,5;x\n1.002,25;y\n"),
        rows=({"a": 1.5, "b": "x"}, {"a": 1002.25, "b": "y"}),
        notes=("The delimiter is a semicolon.", "Numbers have a decimal comma."),
    ),
    Hostile(
        "leading_zeros.csv",
        csv("a;b\n-0,690;x\n1,016;y\n"),
        rows=({"a": -0.69, "b": "x"}, {"a": 1.016, "b": "y"}),
        notes=("The delimiter is a semicolon.", "Numbers have a decimal comma."),
    ),
    Hostile(
        "comma_of_what.csv", csv("a;b\n1,500;x\n2,250;y\n"), says="column a: in '1,500' the comma may be a decimal"
    ),
    Hostile("thousands.csv", csv('a,b\n"1,234.5",x\n"12",y\n'), rows=({"a": 1234.5, "b": "x"}, {"a": 12.0, "b": "y"})),
    Hostile("apostrophes.csv", csv("a,b\n1'234.5,x\n12,y\n"), rows=({"a": 1234.5, "b": "x"}, {"a": 12.0, "b": "y"})),
    Hostile("line_ends.csv", b"a,b\r\n1,x\r2,y\n", rows=TWO),
    Hostile("old_mac.csv", b"a,b\r1,x\r2,y\r", rows=TWO),
    Hostile(
        "quotes.csv",
        csv('a,b\n1,"x ""y"",\n\nz"\n2,5" pipe\n'),
        rows=({"a": 1, "b": 'x "y",\n\nz'}, {"a": 2, "b": '5" pipe'}),
    ),
    Hostile(
        "open_quote.csv", csv('a,b\n1,x\n2,"y\n3,z\n'), says="line 3: a quotation mark opens here and is not closed"
    ),
    Hostile("latin.csv", "a,b\n1,é\n2,ü\n".encode("cp1252"), rows=({"a": 1, "b": "é"}, {"a": 2, "b": "ü"})),
    Hostile("undecodable.csv", b"a,b\n1,x\n2,\x81\n", says=f"line 3: {WHERE}"),
    Hostile(
        "two_encodings.csv", "a,b\n1,é\n".encode() + b"2,\xe9\n", says="line 3: the byte 0xE9 is not UTF-8, but other"
    ),
    Hostile("nul.csv", b"a,b\n1,x\n2,\0\n", says="line 3: there is a NUL byte"),
    Hostile(
        "header_twice.csv",
        csv(SIXTEEN + "a,b\n3,z\n"),
        rows=(*TWO, {"a": 3, "b": "z"}),
        notes=("Repeated headers were left out (1; line 4).",),
    ),
    Hostile("same_name.csv", csv("a,a\n1,2\n"), says="line 1: the header names 'a' more than once"),
    Hostile(
        "no_header.csv", csv("1,x\n2,y\n"), rows=({"column_1": 1, "column_2": "x"}, {"column_1": 2, "column_2": "y"})
    ),
    Hostile("ragged.csv", csv("a,b\n1,x\n2\n3,z,4\n"), says="line 3: 1 cells instead of 2"),
    Hostile("closing_delimiters.csv", csv("a,b,\n1,x,\n2,y,\n"), rows=TWO),
    Hostile("empty.csv", b"", says="the file is empty"),
    Hostile("blank.csv", b"\n\r\n \n", says="the file is empty"),
    Hostile("header_only.csv", csv("a,b\n"), says="the file has a header, but no row below it"),
    Hostile("formulas.csv", csv("a,b\n=1+2,@x\n=A1,-y\n"), rows=({"a": "=1+2", "b": "@x"}, {"a": "=A1", "b": "-y"})),
    Hostile(
        "number_until_70000.csv",
        csv("v\n" + "1.5\n" * 69_998 + "broken\n" + "2\n" * 99),
        says="line 70,000, column v: 'broken' is not a number, as the other values of the column are (1 of 70,098",
    ),
    Hostile("words_after_all.csv", csv("v\n" + "1\n" * 60 + "x\n" * 40), rows=({"v": "1"}, {"v": "1"})),
    Hostile(
        "three_forms.csv",
        csv("d\n2024-04-03\n04/05/2024\n6 Apr 2024\n"),
        says="line 3, column d: '04/05/2024' is a date",
    ),
    Hostile("two_orders.csv", csv("d\n13/04/2024\n04/14/2024\n"), says="line 3, column d: '04/14/2024' is a date"),
    Hostile("no_order.csv", csv("d\n03/04/2024\n05/04/2024\n"), says="column d: in '03/04/2024' the day or the month"),
    Hostile(
        "zoned_and_not.csv",
        csv("d\n2024-04-03T10:00\n2024-04-03T11:00Z\n"),
        says="line 3, column d: '2024-04-03T11:00Z' is a date or time, and so is '2024-04-03T10:00' (line 2), but",
    ),
    Hostile(
        "no_such_day.csv", csv("d\n" + "28/02/2024\n" * 200 + "31/02/2024\n"), says="line 202, column d: '31/02/2024'"
    ),
    Hostile("web_page.csv", b"<!DOCTYPE html><html>", says="this is a web page"),
    Hostile("pickle.csv", b"\x80\x04\x95.", says="this is a Python pickle, which is never read"),
    Hostile(
        "workbook.csv", packed({"[Content_Types].xml": b"<x/>", "xl/a.xml": b""}), says="this is an Excel workbook"
    ),
    Hostile(
        "unknown.foo", csv("some\nwords\n"), says="no format is known for files named .foo. These can be read: CSV"
    ),
    Hostile(
        "cut_off.csv.gz", gzip.compress(SIXTEEN.encode() * 999)[:-9], says="the file is cut off: its end is missing"
    ),
    Hostile("damaged.csv.gz", gzip.compress(SIXTEEN.encode())[:-6] + b"123456", says="the packed file is damaged"),
    Hostile("bomb.csv.gz", gzip.compress(BOMB), says="the file unpacks to more than 300 times its size"),
    Hostile(
        "bomb.zip", packed({"a.csv": BOMB, "b.csv": BOMB}), says="the file unpacks to more than 300 times its size"
    ),
    Hostile("lying.zip", lying, says="a.csv: the packed file is damaged"),
    Hostile(
        "outside.zip", packed({"../x.csv": b"v\n1\n", "y.csv": b"v\n1\n"}), says="../x.csv: the name points outside"
    ),
    Hostile("absolute.zip", packed({"/x.csv": b"v\n1\n", "y.csv": b"v\n1\n"}), says="/x.csv: the name points outside"),
    Hostile(
        "windows.zip", packed({"..\\x.csv": b"v\n1\n", "y.csv": b"v\n1\n"}), says="..\\\\x.csv: the name points outside"
    ),
    Hostile("link.zip", packed({"x.csv": b"/etc/passwd"}, external_attr=0o120777 << 16), says="x.csv: this is a link"),
    Hostile("encrypted.zip", packed({"x.csv": b"v\n1\n"}, flag_bits=1), says="x.csv: the file is encrypted"),
    Hostile(
        "nested.zip", packed({"x.zip": b"PK\x03\x04", "y.csv": b"v\n1\n"}), says="x.zip: this is an archive within"
    ),
    Hostile(
        "hidden_nested.zip", packed({"x.csv": b"PK\x03\x04", "y.csv": b"v\n1\n"}), says="x.csv: this is a zip within"
    ),
    Hostile("cut_off.zip", b"PK\x03\x04" + bytes(50), says="the zip is cut off: its end is missing"),
    Hostile("linked", folder({"a.csv": "v\n1\n"}, link="b.csv"), says="b.csv: this is a link. Links are not followed"),
    Hostile("other_columns", folder({"a.csv": "v\n1\n", "b.csv": "w\n1\n"}), says="b.csv: the file has no column 'v'"),
    Hostile(
        "listed",
        folder({"a.csv": "v\n1\n", "manifest.csv": "file,label\na.csv,x\n../../etc/passwd,y\n"}),
        says="manifest.csv line 3: there is no file '../../etc/passwd'",
    ),
    Hostile(
        "lying_footer.parquet", PLAIN[:-8] + b"\xff\xff\xff\x7fPAR1", says="the Parquet file is damaged: its footer"
    ),
    Hostile("lying_rows.parquet", with_rows(99_000_000), says="the Parquet file"),
    Hostile("too_many_rows.parquet", with_rows(1 << 50), says="the file has 1,125,899,906,842,624 rows"),
    Hostile("cut_off.parquet", PLAIN[:-20], says="the Parquet file is cut off"),
    Hostile("no_rows.parquet", parquet(pa.table({"v": pa.array([], pa.int64())})), says="the file has no row"),
    Hostile(
        "structs.parquet", parquet(pa.table({"v": [{"x": 1}]})), says="column v: the column has values within values"
    ),
    Hostile("bytes.parquet", parquet(pa.table({"v": [b"\xff"]})), says="column v: the column has bytes, not text"),
    Hostile("not.parquet", SIXTEEN.encode(), says="the file is named .parquet, but its content has another format"),
    Hostile(
        "lists.parquet", parquet(pa.table({"x": [[1.0, float("nan")], None]})), rows=({"x": [1.0, None]}, {"x": None})
    ),
    Hostile("deep.jsonl", DEEP.encode(), says="line 1: values are nested too deeply"),
    Hostile("deep_later.jsonl", b'{"a": 1}\n' * 5000 + DEEP.encode(), says="line 5,001: values are nested too deeply"),
    Hostile("very_deep.jsonl", b'{"a":' + b"[" * 200_000 + b"\n", says="line 1: values are nested too deeply"),
    Hostile(
        "keys.jsonl",
        b'{"x": [1, 2.5], "y": "a"}\n\n{"y": "b", "z": NaN}\n{"z": 1}\n',
        rows=({"x": [1.0, 2.5], "y": "a", "z": None}, {"x": None, "y": "b", "z": None}, {"x": None, "y": None, "z": 1}),
    ),
    Hostile("types.jsonl", b'{"a": 1}\n{"a": "x"}\n', says="line 2, key a: the value is text, but line 1 has a number"),
    Hostile("nested.jsonl", b'{"a": {"b": 1}}\n', says="line 1, key a: the value is an object"),
    Hostile("lists.jsonl", b'{"a": [[[1]]]}\n', says="line 1, key a: the list has objects, or several types"),
    Hostile("mixed_list.jsonl", b'{"a": [1, "x"]}\n', says="line 1, key a: the list has objects, or several types"),
    Hostile(
        "table.jsonl",
        b'{"a": [[1, 2], [3, 4.5]]}\n{"a": [[], null, [NaN]]}\n',
        rows=({"a": [[1.0, 2.0], [3.0, 4.5]]}, {"a": [[], None, [None]]}),
    ),
    Hostile(
        "tables.parquet",
        parquet(pa.table({"x": [[[1.0, float("nan")], [2.0, 3.0]], None]})),
        rows=({"x": [[1.0, None], [2.0, 3.0]]}, {"x": None}),
    ),
    Hostile("pretty.json", json.dumps({"a": 1}, indent=1).encode(), says="line 1: this is no JSON object"),
    Hostile("array.json", b'[{"a": 1}]', says="this is a JSON array"),
    Hostile(
        "stamps.ts", b"@problemName x\n@timeStamps true\n@data\n(0,1):a\n", says="line 2: the series have timestamps"
    ),
    Hostile(
        "ragged.ts",
        b"@problemName x\n@univariate false\n@classLabel true a b\n@data\n1,2:3,4:a\n1,2:3:b\n",
        says="line 6: the dimensions of the series have different lengths",
    ),
    Hostile(
        "class.ts", b"@problemName x\n@classLabel true a b\n@data\n1:a\n1:c\n", says="line 5: the label is none of"
    ),
    Hostile("words.ts", b"@problemName x\n@data\n1,2\n3,x\n", says="line 4, dimension 0, step 1: 'x' is not a number"),
    Hostile("nameless.ts", b"@problemName x\n@\n@data\n1,x\n", says="line 4, dimension 0, step 1: 'x' is not a number"),
    Hostile("no_data.ts", b"@problemName x\n", says="there is no line @data"),
    Hostile(
        "half_labelled.txt",
        b"good\tfine film\nbad\tdull film\n" * 20 + b"who knows\n",
        says="line 41: the line has no tab",
    ),
)


def main(where: str) -> None:
    Path(where).mkdir(parents=True, exist_ok=True)
    for hostile in FILES:
        print(hostile.write(Path(where)), "->", hostile.says or "can be read")


if __name__ == "__main__":
    main(sys.argv[1])
