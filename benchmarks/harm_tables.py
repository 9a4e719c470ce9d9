# ruff: noqa: E501  (a table: a line is a case)
"""Make JSON, YAML, CSV, databases and torch's files that are wrong, hostile or too large."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harm_cif import cell_length, cif
from harm_judge import LEFT_OUT, Bad, FileKind, kinds

AL = ("Al",)
MEGABYTE = 2**20


def structure(**changes: Any) -> dict[str, Any]:
    """Return a pymatgen dictionary of fcc aluminium, with changes."""
    a = cell_length() / 2
    site = {"species": [{"element": "Al", "occu": 1}], "abc": [0, 0, 0], "label": "Al"}
    matrix = [[0, a, a], [a, 0, a], [a, a, 0]]
    return {"@module": "pymatgen.core.structure", "@class": "Structure",
            "lattice": {"matrix": matrix}, "sites": [site]} | changes  # fmt: skip


def _json(**changes: Any) -> str:
    return json.dumps(structure(**changes))


def _sites(**changes: Any) -> list[dict[str, Any]]:
    return [structure()["sites"][0] | changes]


JSON: list[FileKind] = kinds(
    {
        "JSON: not JSON": [
            Bad("words.json", "{crystal: yes}", words=(LEFT_OUT["json"],)),
            Bad("cut.json", _json()[:-20]),
            Bad("lines.json", _json() + "\n" + _json() + "\n", may=AL),
            Bad("after.json", _json() + "}", may=AL),
        ],
        "JSON: other things": [
            Bad("number.json", "4", words=(LEFT_OUT["json"],)),
            Bad("null.json", "null", words=(LEFT_OUT["json"],)),
            Bad("texts.json", '["a", "b"]', words=(LEFT_OUT["json"],)),
            Bad("settings.json", '{"model": "x", "epochs": 3}', words=(LEFT_OUT["json"],)),
            Bad("molecule.json", json.dumps({"@module": "pymatgen.core.structure", "@class": "Molecule",
                "charge": 0, "sites": [{"species": [{"element": "N", "occu": 1}], "xyz": [0, 0, 0]}]})),
        ],
        "JSON: names of other classes": [
            Bad("system.json", json.dumps({"@module": "os", "@class": "system", "command": "touch $MARKER"}),
                words=(LEFT_OUT["json"],)),
            Bad("popen.json", _json(**{"@module": "subprocess", "@class": "Popen", "args": "touch $MARKER"}),
                may=AL, reason=False),
            Bad("callable.json", json.dumps({"@module": "os", "@callable": "system"}),
                words=(LEFT_OUT["json"],)),
        ],
        "JSON: structures that lack something": [
            Bad("lattice.json", _json(lattice=None)),
            Bad("matrix.json", _json(lattice={"matrix": [[1, 2], [3, 4]]})),
            Bad("sites.json", _json(sites=[])),
            Bad("species.json", _json(sites=_sites(species=[]))),
            Bad("abc.json", _json(sites=[{"species": [{"element": "Al", "occu": 1}]}])),
            Bad("nan.json", _json(sites=_sites(abc=[0, 0, float("nan")]))),
            Bad("infinite.json", _json(lattice={"matrix": [[float("inf"), 0, 0], [0, 4, 0], [0, 0, 4]]})),
        ],
        "JSON: disordered": [
            Bad("half.json", _json(sites=_sites(species=[{"element": "Al", "occu": 0.5}]))),
            Bad("mixed.json", _json(sites=_sites(species=[{"element": "Al", "occu": 0.5},
                                                          {"element": "Ni", "occu": 0.5}]))),
            Bad("dummy.json", _json(sites=_sites(species=[{"element": "X0+", "occu": 1}])), may=("X",)),
            Bad("digits.json", _json().replace('"occu": 1', '"occu": 1' + "0" * 5000)),
        ],
        "JSON: nested very deep": [
            Bad("lists.json", "[" * 1_000_000 + "]" * 1_000_000, words=(LEFT_OUT["json"],)),
            Bad("objects.json", '{"a":' * 100_000 + "1" + "}" * 100_000,
                words=(LEFT_OUT["json"],)),
        ],
        "JSON: one bad structure of three": [
            Bad("three.json", json.dumps([structure(), structure(sites=[]), structure()]), must=AL),
        ],
    }
)  # fmt: skip


def _csv(*cells: str, header: str = "cif,name") -> str:
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells)
    return header + "\n" + "".join(f"{cell},x\n" for cell in quoted)


CSV: list[FileKind] = kinds(
    {
        "CSV: no structures": [
            Bad("header.csv", "cif,name\n", words=(LEFT_OUT["csv"],)),
            Bad("other.csv", "epoch,loss\n1,0.5\n", words=(LEFT_OUT["csv"],)),
            Bad("empty-cells.csv", _csv("", "")),
        ],
        "CSV: rows that are uneven": [
            Bad("long.csv", "cif,name\n" + "a,b,c,d\n" * 3),
            Bad("quote.csv", 'cif,name\n"' + cif(["Al1 Al 0 0 0"])),
            Bad("nul.csv", 'cif,name\n"' + cif(["Al1 Al 0 0 0"]) + '",a\0b\n', may=AL, reason=False),
        ],
        "CSV: one bad row of three": [
            Bad("three.csv", _csv(cif(["Al1 Al 0 0 0"]), "no crystal", cif(["Ni1 Ni 0 0 0"], a=3.53)),
                must=("Al", "Ni")),
        ],
        "CSV: a huge cell": [
            Bad("huge.csv", _csv("A" * (17 * MEGABYTE), cif(["Al1 Al 0 0 0"])), may=AL),
        ],
        "CSV: formulas for spreadsheets": [
            Bad("formula.csv", 'cif,name\n"' + cif(["Al1 Al 0 0 0"]) + '","=HYPERLINK(""x"")"\n',
                must=AL, reason=False),
        ],
        "CSV: Python in the cells": [
            Bad("code.csv", _csv("__import__('os').system('touch $MARKER')", header="structure,name")),
            Bad("literal.csv", _csv("{" + "1," * 4_000_000 + "}", header="structure,name")),
            Bad("deep.csv", _csv("{" + "[" * 2_000_000, "{" + "-" * 2_000_000 + "1}", header="structure,name")),
        ],
        "CSV: a compressed line of commas": [
            Bad("commas.csv.gz", lambda path: _gz(path, b"cif,a\n", b"," * MEGABYTE, 200)),
        ],
    }
)  # fmt: skip


def _gz(path: Path, head: bytes, chunk: bytes, times: int) -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(head)
        for _ in range(times):
            file.write(chunk)


def _anchors(levels: int) -> str:
    text = "phonopy:\n  x: &a0 [0,0,0,0,0,0,0,0,0,0]\n"
    for level in range(1, levels):
        text += f"  x{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n"
    return text + f"unit_cell:\n  lattice: *a{levels - 1}\n  points: *a{levels - 1}\n"


def _yaml(points: str = "  - {symbol: Al, coordinates: [0, 0, 0]}\n") -> str:
    a = cell_length() / 2
    return (
        f"phonopy: {{version: 2.43.1}}\nunit_cell:\n  lattice: [[0, {a}, {a}], [{a}, 0, {a}], "
        f"[{a}, {a}, 0]]\n  points:\n{points}"
    )


YAML: list[FileKind] = kinds(
    {
        "YAML: as it should be": [Bad("phonopy.yaml", _yaml(), must=AL, reason=False)],
        "YAML: Python's tags": [
            Bad("tags.yaml", "unit_cell: !!python/object/apply:os.system ['touch $MARKER']\n",
                words=(LEFT_OUT["yaml"],)),
        ],
        "YAML: anchors that grow": [
            Bad("eight.yaml", _anchors(8), words=(LEFT_OUT["yaml"],)),
            Bad("thirty.yaml", _anchors(30), words=(LEFT_OUT["yaml"],)),
        ],
        "YAML: nested deep or in itself": [
            Bad("deep.yaml", "unit_cell: " + "[" * 100_000 + "]" * 100_000, words=(LEFT_OUT["yaml"],)),
            Bad("itself.yaml", "unit_cell: &a\n  lattice: [*a, *a, *a]\n  points: [*a]\n"),
        ],
        "YAML: points that are none": [
            Bad("nan.yaml", _yaml("  - {symbol: Al, coordinates: [0, 0, .nan]}\n")),
            Bad("symbol.yaml", _yaml("  - {symbol: Qq, coordinates: [0, 0, 0]}\n")),
            Bad("none.yaml", _yaml("  - {}\n")),
            Bad("mass.yaml", _yaml("  - {symbol: Al, coordinates: [0, 0, 0], mass: -1}\n"), may=AL),
        ],
        "YAML: cut off": [Bad("phonopy_disp.yaml", _yaml()[:-25])],
        "YAML: several documents": [Bad("two.yaml", _yaml() + "---\n" + _yaml(), may=AL)],
    }
)  # fmt: skip


def _database(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def _ase_database(path: Path) -> None:
    import ase.db
    from ase.build import bulk

    with ase.db.connect(path) as database:
        database.write(bulk("Al", "fcc", a=cell_length()))
        database.write(bulk("Ni", "fcc", a=3.54))


def _changed_database(statement: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _ase_database(path)
        _database(path, statement)

    return make


def _cut_database(path: Path) -> None:
    _ase_database(path)
    os.truncate(path, path.stat().st_size // 2)


DATABASES: list[FileKind] = kinds(
    {
        "database: one that is none": [
            Bad("text.db", "this is a list of crystals\n", words=(LEFT_OUT["db"],)),
            Bad("other.db", lambda path: _database(path, "CREATE TABLE songs(name TEXT);"),
                words=(LEFT_OUT["db"],)),
            Bad("cut.db", _cut_database, may=("Al", "Ni")),
        ],
        "database: a view without end": [
            Bad("view.db", lambda path: _database(
                path, "CREATE VIEW systems AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL "
                "SELECT x + 1 FROM c) SELECT x AS id FROM c;"), words=(LEFT_OUT["db"],)),
            Bad("species.db", _changed_database(
                "ALTER TABLE species RENAME TO n; CREATE VIEW species AS WITH RECURSIVE c(x) AS "
                "(SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id FROM c;"),
                may=("Al", "Ni"), reason=False),
        ],
        "database: damaged rows": [
            Bad("numbers.db", _changed_database("UPDATE systems SET numbers = x'00' WHERE id = 1"),
                must=("Ni",)),
            Bad("cell.db", _changed_database("UPDATE systems SET cell = zeroblob(72) WHERE id = 1"),
                must=("Ni",)),
            Bad("pairs.db", _changed_database("UPDATE systems SET key_value_pairs = '{' WHERE id = 1"),
                must=("Ni",), may=AL),
            Bad("array.db", _changed_database(
                "UPDATE systems SET data = '{\"x\": {\"__ndarray__\": [[1000000000000], "
                "\"float64\", []]}}' WHERE id = 1"), must=("Ni",), may=AL, reason=False),
        ],
    }
)  # fmt: skip


class _Code:
    """Touch a file when its pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ('touch "$MARKER"',)


def _crystals(**changes: Any) -> dict[str, Any]:
    """Return arrays as CDVAE and DiffCSP save them: two crystals of aluminium."""
    import torch

    a = cell_length()
    return {
        "frac_coords": torch.zeros(1, 2, 3),
        "atom_types": torch.tensor([[13, 13]]),
        "num_atoms": torch.tensor([[1, 1]]),
        "lengths": torch.tensor([[[a * 0.7071] * 3, [a * 0.7072] * 3]]),
        "angles": torch.full((1, 2, 3), 60.0),
    } | changes


def _torch(make: Callable[[Any], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import torch

        torch.save(make(torch), path)

    return write


def _cut_torch(path: Path) -> None:
    _torch(lambda _: _crystals())(path)
    os.truncate(path, path.stat().st_size * 2 // 3)


def _script(path: Path) -> None:
    import warnings

    import torch

    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Nothing()).save(path)


def _old_tar(path: Path) -> None:
    code = pickle.dumps(_Code())
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(code)
            archive.addfile(member, io.BytesIO(code))


def _shared(torch: Any) -> Any:
    lists: list[Any] = []
    for _ in range(40):
        lists = [lists, lists]
    return lists


def _itself(torch: Any) -> Any:
    lists: list[Any] = []
    lists.append(lists)
    return lists


TORCH: list[FileKind] = kinds(
    {
        "torch: as it should be": [Bad("good.pt", _torch(lambda _: _crystals()), must=AL, reason=False)],
        "torch: pickles with code": [
            Bad("raw.pt", pickle.dumps({"frac_coords": _Code()}), words=(LEFT_OUT["pt"],)),
            Bad("zip.pt", _torch(lambda _: _crystals(x=_Code()))),
            Bad("tar.pt", _old_tar, words=(LEFT_OUT["pt"],)),
            Bad("text.pt", b"cos\nsystem\n(S'touch \"$MARKER\"'\ntR.", words=(LEFT_OUT["pt"],)),
        ],
        "torch: a program": [Bad("script.pt", _script, words=(LEFT_OUT["pt"],))],
        "torch: lists that share or hold themselves": [
            Bad("shared.pt", _torch(_shared), words=(LEFT_OUT["pt"],)),
            Bad("itself.pt", _torch(_itself), words=(LEFT_OUT["pt"],)),
        ],
        "torch: views that grow": [
            Bad("expanded.pt", _torch(lambda t: _crystals(
                frac_coords=t.zeros(1).expand(1, 10**9, 3), atom_types=t.ones(1).long().expand(1, 10**9),
                num_atoms=t.tensor([[10**9]])))),
        ],
        "torch: counts that do not fit": [
            Bad("negative.pt", _torch(lambda t: _crystals(num_atoms=t.tensor([[-1, 3]])))),
            Bad("more.pt", _torch(lambda t: _crystals(num_atoms=t.tensor([[1, 7]]))), may=AL),
            Bad("lengths.pt", _torch(lambda t: _crystals(lengths=t.ones(1, 5, 3))), may=AL),
            Bad("missing.pt", _torch(lambda t: {"frac_coords": t.zeros(1, 2, 3)}), words=(LEFT_OUT["pt"],)),
        ],
        "torch: numbers that are none": [
            Bad("nan.pt", _torch(lambda t: _crystals(frac_coords=t.full((1, 2, 3), float("nan"))))),
            Bad("angles.pt", _torch(lambda t: _crystals(angles=t.full((1, 2, 3), 180.0)))),
            Bad("complex.pt", _torch(lambda t: _crystals(frac_coords=t.zeros(1, 2, 3, dtype=t.complex64))),
                may=AL),
            Bad("types.pt", _torch(lambda t: _crystals(atom_types=t.tensor([[0, 200]]))), may=("X",)),
        ],
        "torch: odd tensors": [
            Bad("meta.pt", _torch(lambda t: _crystals(frac_coords=t.zeros(1, 2, 3, device="meta")))),
            Bad("sparse.pt", _torch(lambda t: _crystals(frac_coords=t.zeros(1, 2, 3).to_sparse())), may=AL),
            Bad("weights.pt", _torch(lambda t: {"state_dict": {"w": t.zeros(3)}}), words=(LEFT_OUT["pt"],)),
        ],
        "torch: cut off": [Bad("cut.pt", _cut_torch)],
    }
)  # fmt: skip
TABLES = [*JSON, *CSV, *YAML, *DATABASES, *TORCH]
