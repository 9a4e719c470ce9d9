"""Files that stand for more than they hold: a row with its reason, before memory is spent."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write

from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.errors import ConfigError, SourceError
from hpcbench.limits import Limits
from hpcbench.sources import SourceFile, Unreadable, find_files, read_file

MIB = 2**20
# What reading any of the files here may take, beside the program and its libraries.
MOST_MEMORY = 400 * MIB


def cif(edge: float = 4.05) -> str:
    stream = io.BytesIO()
    write(stream, bulk("Al", a=edge), format="cif")
    return stream.getvalue().decode()


def sparse_tar(path: Path, member: str) -> None:
    """Of 1.5 kB: a member of 4 TiB that is all hole, by GNU tar's old header."""
    header = bytearray(512)

    def put(at: int, value: bytes) -> None:
        header[at : at + len(value)] = value

    def number(value: int) -> bytes:
        return b"\x80" + value.to_bytes(11, "big")

    put(0, member.encode())
    for at in (100, 108, 116):
        put(at, b"0000644\0")
    for at in (124, 136):
        put(at, b"00000000000\0")
    put(156, b"S")
    put(257, b"ustar  \0")
    put(386, number(2**42) + number(0))
    put(483, number(2**42))
    put(148, b" " * 8)
    put(148, b"%06o\0 " % sum(header))
    path.write_bytes(bytes(header) + bytes(1024))


def zipped(path: Path, text: bytes, times: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(times):
            stream.write(text)


def pax_bomb(path: Path) -> None:
    """A tar whose header of names is 64 MiB long, in 64 kB."""
    header = tarfile.TarInfo("names")
    header.type, header.size = tarfile.XHDTYPE, 64 * MIB
    with gzip.open(path, "wb") as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(65):
            stream.write(b"9" * MIB)


def aliases(levels: int) -> str:
    text = "phonopy:\n  x: &a0 [0,0,0,0,0,0,0,0,0,0]\n"
    for level in range(1, levels):
        text += f"  x{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n"
    return f"{text}unit_cell:\n  lattice: *a{levels - 1}\n  points: *a{levels - 1}\n"


def arrays(**others: object) -> dict[str, object]:
    known = {
        "frac_coords": torch.zeros(1, 3),
        "atom_types": torch.tensor([13]),
        "num_atoms": torch.tensor([1]),
        "lengths": torch.full((1, 3), 4.0),
        "angles": torch.full((1, 3), 90.0),
    }
    return {**known, **others}


def nested(levels: int, inner: object) -> object:
    for _ in range(levels):
        inner = [inner, inner]
    return inner


def itself() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


def computed_column(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE systems (id INTEGER PRIMARY KEY, numbers BLOB AS (zeroblob(900000000)))"
        )
        database.execute("INSERT INTO systems (id) VALUES (1)")
    database.close()


def long_row(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE systems (id INTEGER PRIMARY KEY, numbers BLOB)")
        database.execute("INSERT INTO systems VALUES (1, zeroblob(20000000))")
    database.close()


def operators(path: Path) -> None:
    listed = "".join(f"'x+{n}/99999,y,z'\n" for n in range(30000))
    loop = f"loop_\n_symmetry_equiv_pos_as_xyz\n{listed}loop_\n_atom_site_type_symbol"
    path.write_text(cif().replace("loop_\n  _atom_site_type_symbol", loop))


QUOTED = cif().replace('"', '""')
LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
BOMBS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "sparse-cif.tar": (lambda p: sparse_tar(p, "a.cif"), ["too large"]),
    "sparse-xyz.tar": (lambda p: sparse_tar(p, "a.xyz"), ["too large"]),
    "sparse-csv.tar": (lambda p: sparse_tar(p, "a.csv"), ["too large"]),
    "sparse-db.tar": (lambda p: sparse_tar(p, "a.db"), ["too large"]),
    "names.tar.gz": (pax_bomb, ["archive"]),
    "spaces.vasp.gz": (lambda p: zipped(p, b" " * MIB, 64), ["too large"]),
    "zeros.xyz.gz": (lambda p: zipped(p, bytes(MIB), 64), ["too large"]),
    "zeros.db.gz": (lambda p: zipped(p, bytes(MIB), 64), ["database"]),
    "line.cif": (lambda p: p.write_text(cif() + "#" * (2 * MIB)), ["too large"]),
    "many.xyz": (
        lambda p: p.write_text(
            f"999999999\n{LATTICE}\n" + "Al 0 0 0\n" * 9 + f"1\n{LATTICE}\nAl 0 0 0\n"
        ),
        ["too large", ""],
    ),
    "digits.xyz": (lambda p: p.write_text("9" * 5000 + f"\n{LATTICE}\nAl 0 0 0\n"), ["too large"]),
    "binary.xyz": (lambda p: p.write_bytes(b"\0\1\n" * 99), ["binary"]),
    "POSCAR": (
        lambda p: p.write_text("x\n1\n4 0 0\n0 4 0\n0 0 4\nAl\n999999999\nDirect\n0 0 0\n"),
        ["truncated"],
    ),
    "aliases.yaml": (lambda p: p.write_text(aliases(9)), ["too large"]),
    "more-aliases.yaml": (lambda p: p.write_text(aliases(30)), ["too large"]),
    "itself.yaml": (
        lambda p: p.write_text("unit_cell: &a\n  lattice: [*a,*a,*a]\n  points: [*a]\n"),
        ["syntax"],
    ),
    "deep.yaml": (lambda p: p.write_text(f"unit_cell: {'[' * 900}{']' * 900}\n"), ["too large"]),
    "deeper.yaml": (
        lambda p: p.write_text(f"unit_cell: {'[' * 200000}{']' * 200000}\n"),
        ["syntax"],
    ),
    "deep.json": (lambda p: p.write_text("[" * MIB + "]" * MIB), ["too large"]),
    "values.json.gz": (
        lambda p: zipped(p, b"{}," * MIB, 18),
        ["too large"],
    ),
    "huge.csv": (
        lambda p: p.write_text(f'cif,name\n"{"A" * 17 * MIB}",x\n"{QUOTED}",good\n'),
        ["too large", ""],
    ),
    "commas.csv.gz": (lambda p: zipped(p, b"cif" + b"," * MIB, 64), ["too large"]),
    "literal.csv": (
        lambda p: p.write_text(f'structure\n"{{{"1," * MIB}}}"\n"{QUOTED}"\n'),
        ["too large", ""],
    ),
    "signs.csv": (
        lambda p: p.write_text(f'structure\n"{{{"-" * MIB}1}}"\n"{{{"[" * 999}"\n'),
        ["syntax", "too large"],
    ),
    "operators.cif": (operators, ["too large"]),
    "expanded.pt": (
        lambda p: torch.save(
            arrays(
                frac_coords=torch.zeros(1).expand(10**9, 3),
                atom_types=torch.ones(1, dtype=torch.long).expand(10**9),
                num_atoms=torch.tensor([10**9]),
            ),
            p,
        ),
        ["syntax"],
    ),
    "barren.pt": (lambda p: torch.save(nested(40, 1), p), ["no structure"]),
    "batches.pt": (
        lambda p: torch.save(arrays(frac_coords=[torch.zeros(MIB, 3)] * 10**4), p),
        ["too large"],
    ),
    "itself.pt": (lambda p: torch.save(itself(), p), ["too large"]),
    "negative.pt": (
        lambda p: torch.save(arrays(num_atoms=torch.tensor([-1, 2])), p),
        ["syntax"],
    ),
    "computed.db": (computed_column, ["database"]),
    "long-row.db": (long_row, ["too large"]),
}

READING = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import ase.db, phonopy, pymatgen.io.cif, torch, yaml
from hpcbench.sources import SourceFile, Unreadable, read_file

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

base = peak()
for path in sys.argv[1:]:
    kinds = []
    for record in read_file(SourceFile(path, explicit=True)):
        kinds.append(record.kind if isinstance(record, Unreadable) else "")
        if len(kinds) > 9:
            break
    print(json.dumps([path, kinds, peak() - base]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], int]]:
    """What one process says of each file: kinds of its records, and its peak of memory so far."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        make(folder / name)
        assert (folder / name).stat().st_size < 25 * MIB
    paths = [str(folder / name) for name in BOMBS]
    answer = subprocess.run(
        [sys.executable, "-c", READING, *paths], capture_output=True, text=True, check=True
    )
    lines = map(json.loads, answer.stdout.splitlines())
    return {Path(path).name: (kinds, memory) for path, kinds, memory in lines}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_a_row_and_takes_no_memory(
    told: dict[str, tuple[list[str], int]], name: str
) -> None:
    kinds, memory = told[name]
    assert kinds == BOMBS[name][1]
    assert memory < MOST_MEMORY


def read(path: Path, *limits: str) -> list[str]:
    file = SourceFile(str(path), explicit=True)
    records = read_file(file, limits=Limits(limits))
    return [record.reason if isinstance(record, Unreadable) else "" for record in records]


def test_limits_are_set_for_each_format_and_named_in_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif())
    write(tmp_path / "a.extxyz", [bulk("Al"), bulk("Al", cubic=True)])
    assert read(tmp_path / "a.cif") == [""]
    assert read(tmp_path / "a.cif", "cif.bytes=100") == [
        "too large: more than 100 bytes; --read-limits cif.bytes=N raises the limit"
    ]
    assert read(tmp_path / "a.cif", "xyz.bytes=100", "cif.bytes=1K") == [""]
    assert "cif.bytes=N" in read(tmp_path / "a.cif", "bytes=100")[0]
    assert read(tmp_path / "a.extxyz", "xyz.members=3") == [
        "",
        "too large: more than 3 members; --read-limits xyz.members=N raises the limit",
    ]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.cif", cif(4.0 + number / 100))
    assert [bool(reason) for reason in read(tmp_path / "a.zip", "archive.members=2")] == [
        False,
        False,
        True,
    ]
    assert "archive.bytes=N" in read(tmp_path / "a.zip", "archive.bytes=1")[-1]


def test_a_zip_with_too_long_a_list_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(99):
            archive.writestr(f"{number}{'x' * 900}.log", b"")
    assert "archive.members=N" in read(tmp_path / "a.zip", "archive.members=50")[0]


def test_a_tar_that_is_damaged_in_the_middle_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(3):
            text = cif(4.0 + number / 100).encode()
            member = tarfile.TarInfo(f"{number}.cif")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    content = bytearray((tmp_path / "a.tar").read_bytes())
    second = content.index(b"1.cif")
    content[second : second + 200] = b"\xff" * 200
    (tmp_path / "a.tar").write_bytes(content)
    first, reason = read(tmp_path / "a.tar")
    assert first == ""
    assert reason.startswith("archive: damaged")


def test_shared_crystals_of_a_torch_file_count_as_often_as_they_are_there(tmp_path: Path) -> None:
    torch.save([arrays()] * 3, tmp_path / "a.pt")
    records = [*read_file(SourceFile(str(tmp_path / "a.pt"), explicit=True))]
    assert [type(record) for record in records] == [Crystal] * 3
    torch.save(nested(40, arrays()), tmp_path / "c.pt")
    assert set(read(tmp_path / "c.pt", "torch.members=100")) == {
        "",
        "too large: more than 100 members; --read-limits torch.members=N raises the limit",
    }
    torch.save(arrays(frac_coords=nested(40, [0.0])), tmp_path / "d.pt")
    assert read(tmp_path / "d.pt", "torch.members=100")[0].startswith("too large")
    torch.save(arrays(num_atoms=np.array([1])), tmp_path / "b.pt")
    assert read(tmp_path / "b.pt") == [""]


def test_lists_and_manifests_have_limits(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("a=" + "[" * 10**5 + "]" * 10**5)
    with pytest.raises(SourceError, match="nested too deep"):
        find_files([tmp_path / "deep.toml"])
    (tmp_path / "long.txt").write_text("a.cif\n" * 100)
    with pytest.raises(SourceError, match=r"list\.bytes=N"):
        find_files([tmp_path / "long.txt"], Limits(("list.bytes=10",)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("json.byte=2G", "did you mean json.bytes?"),
        ("json.bytes=lots", "such as json.bytes=2G"),
        ("cif.nesting=3", "FORMAT.WHAT=N"),
        ("bytes", "FORMAT.WHAT=N"),
    ],
)
def test_a_wrong_limit_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="read_limits expects") as caught:
        load_config({"read_limits": [text]}, environment={})
    assert words in str(caught.value)


def test_limits_are_settings_that_decide_no_result() -> None:
    config = load_config({"read_limits": ["json.bytes=2G", "line=1K"]}, environment={})
    assert config.read_limits == ("json.bytes=2G", "line=1K")
    assert Limits(config.read_limits).of("json", "bytes") == 2**31
    assert "read_limits" not in config.result_settings()
    by_variable = load_config({}, environment={"HPCBENCH_READ_LIMITS": "json.bytes=2G bytes=1G"})
    assert by_variable.read_limits == ("json.bytes=2G", "bytes=1G")
