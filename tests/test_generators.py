"""What generators write, read as it is."""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter

import hpcbench
from hpcbench.analysis.generators import outcomes_of
from hpcbench.analysis.rates import Rate
from hpcbench.cli import main
from hpcbench.crystal import Crystal
from hpcbench.errors import SourceError
from hpcbench.origin import Generator, origins_from_json
from hpcbench.outputs import appended
from hpcbench.relaxation.symmetry import find_space_group
from hpcbench.sources import LeftOut, Unreadable, find_files, find_sources, read_file

# One of each lattice, with different numbers of atoms and no right angle in some.
CRYSTALS = (
    bulk("NaCl", "rocksalt", a=5.64),
    bulk("Mg", "hcp", a=3.2, c=5.2),
    Atoms("TiO2", scaled_positions=[[0, 0, 0], [0.3, 0.31, 0.1], [0.7, 0.6, 0.9]],
          cell=[[4.1, 0, 0], [0.7, 4.5, 0], [0.3, -0.4, 3.9]], pbc=True),
)  # fmt: skip


def read(path: Path) -> list[Crystal | Unreadable]:
    return [record for file in find_files([path]) for record in read_file(file)]


def crystals_of(path: Path) -> list[Crystal]:
    records = read(path)
    assert not [r.reason for r in records if isinstance(r, Unreadable)]
    return [record for record in records if isinstance(record, Crystal)]


def reasons_of(path: Path) -> list[str]:
    return [record.reason for record in read(path) if isinstance(record, Unreadable)]


def assert_same(found: Sequence[Crystal], expected: Sequence[Atoms], *, atol: float = 1e-5) -> None:
    """Equal but for a rotation: lengths, angles, elements, fractional coordinates."""
    assert len(found) == len(expected)
    for crystal, atoms in zip(found, expected, strict=True):
        ours = crystal.to_ase()
        np.testing.assert_allclose(ours.cell.cellpar(), atoms.cell.cellpar(), atol=100 * atol)
        np.testing.assert_array_equal(ours.numbers, atoms.numbers)
        shift = ours.get_scaled_positions() - atoms.get_scaled_positions()
        np.testing.assert_allclose(shift - np.rint(shift), 0.0, atol=atol)


def flat_arrays(crystals: Sequence[Atoms]) -> dict[str, torch.Tensor]:
    """As CDVAE and DiffCSP write them."""
    return {
        "frac_coords": torch.tensor(np.concatenate([c.get_scaled_positions() for c in crystals])),
        "atom_types": torch.tensor(np.concatenate([c.numbers for c in crystals])),
        "num_atoms": torch.tensor([len(c) for c in crystals]),
        "lengths": torch.tensor(np.array([c.cell.lengths() for c in crystals])),
        "angles": torch.tensor(np.array([c.cell.angles() for c in crystals])),
    }


LAYOUTS = {
    "DiffCSP": flat_arrays(CRYSTALS),
    "CDVAE": {
        **{name: array[None] for name, array in flat_arrays(CRYSTALS).items()},
        "eval_setting": argparse.Namespace(num_evals=1, model_path=".", label=""),
        "time": 12.5,
    },
    "batches": {
        name: [part, other]
        for (name, part), other in zip(
            flat_arrays(CRYSTALS[:2]).items(), flat_arrays(CRYSTALS[2:]).values(), strict=True
        )
    },
    "CrystalFlow": {"crystal_list": [flat_arrays([c]) for c in CRYSTALS], "time": 1.0},
    "NumPy": [{k: v.numpy() for k, v in flat_arrays([c]).items()} for c in CRYSTALS],
    "list": [flat_arrays(CRYSTALS[:2]), flat_arrays(CRYSTALS[2:])],
    "lattices": {
        **{k: v for k, v in flat_arrays(CRYSTALS).items() if k not in ("lengths", "angles")},
        "lattices": torch.tensor(np.array([c.cell[:] for c in CRYSTALS])),
    },
    "probabilities": flat_arrays(CRYSTALS)
    | {
        "atom_types": torch.nn.functional.one_hot(
            flat_arrays(CRYSTALS)["atom_types"] - 1, 100
        ).float()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_torch(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "eval_gen.pt"
    torch.save(LAYOUTS[layout], path)
    found = crystals_of(path)
    assert_same(found, CRYSTALS)
    assert [c.name for c in found] == [f"eval_gen-{n}" for n in range(3)]
    assert [c.origins[0].index for c in found] == [0, 1, 2]


def test_evaluations_come_one_after_the_other(tmp_path: Path) -> None:
    """CDVAE's arrays have an axis of evaluations in front."""
    arrays = flat_arrays(CRYSTALS)
    twice = {name: torch.stack([array, array]) for name, array in arrays.items()}
    twice["frac_coords"][1] += 0.25
    torch.save(twice, tmp_path / "eval_gen.pt")
    found = crystals_of(tmp_path / "eval_gen.pt")
    moved = [c.copy() for c in CRYSTALS]
    for atoms in moved:
        atoms.set_scaled_positions(atoms.get_scaled_positions() + 0.25)
    assert_same(found, [*CRYSTALS, *moved])


def test_a_cell_that_is_none_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    arrays = flat_arrays(CRYSTALS)
    arrays["angles"][1] = torch.tensor([170.0, 170.0, 90.0])
    arrays["lengths"][2] = torch.tensor([3.0, -1.0, 3.0])
    torch.save(arrays, tmp_path / "a.pt")
    first, second, third = read(tmp_path / "a.pt")
    assert isinstance(first, Crystal)
    assert isinstance(second, Unreadable)
    assert isinstance(third, Unreadable)
    assert second.reason.startswith("no cell: lengths and angles make no cell: [3.2")
    assert third.reason.startswith("no cell: lengths and angles must be positive")


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("open('exploded', 'w').close()",))


def test_a_foreign_class_is_named_and_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**flat_arrays(CRYSTALS), "extra": Bomb()}, "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pt", "plain.pt"):
        (reason,) = reasons_of(Path(name))
        assert reason.startswith("unsafe: the file holds objects of ")
        assert "exec" in reason
    assert not (tmp_path / "exploded").exists()
    # With torch's own way of loading it would have been.
    torch.load("bomb.pt", weights_only=False)
    assert (tmp_path / "exploded").exists()


def test_damaged_and_foreign_files_of_torch_have_reasons(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(flat_arrays(CRYSTALS), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert reasons_of(path)[0].startswith("truncated: ")
    path.write_bytes(b"no torch at all")
    assert len(reasons_of(path)) == 1
    path.write_bytes(b"")
    assert len(reasons_of(path)) == 1
    torch.save({"layer.weight": torch.zeros(3)}, path)
    assert reasons_of(path) == ["no structure: no arrays of crystals in the file ('layer.weight')"]
    arrays = flat_arrays(CRYSTALS)
    arrays["num_atoms"][0] += 5
    torch.save(arrays, path)
    (reason,) = reasons_of(path)
    assert reason.startswith("syntax: the arrays do not go together (12 atoms counted, 7 named")


def cif_text(atoms: Atoms) -> str:
    return str(CifWriter(AseAtomsAdaptor.get_structure(atoms), significant_figures=10))


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["samples.csv", "samples.csv.gz"])
@pytest.mark.parametrize("column", ["cif", "CIF", "relxed_structure", "generated_cif"])
def test_a_column_of_cif_texts(name: str, column: str, tmp_path: Path) -> None:
    rows = [{"": n, "formula": "x, y", column: cif_text(c)} for n, c in enumerate(CRYSTALS)]
    write_csv(tmp_path / name, rows)
    found = crystals_of(tmp_path / name)
    assert_same(found, CRYSTALS)
    assert [c.name for c in found] == [f"samples-{n}" for n in range(3)]


def test_a_column_of_dictionaries_as_python_and_as_json(tmp_path: Path) -> None:
    """CrystalFormer's ``*_struct.csv`` has what Python prints."""
    dictionaries = [AseAtomsAdaptor.get_structure(c).as_dict() for c in CRYSTALS]
    for text in (repr, json.dumps):
        write_csv(tmp_path / "x_struct.csv", [{"cif": text(d)} for d in dictionaries])
        assert_same(crystals_of(tmp_path / "x_struct.csv"), CRYSTALS)


def test_names_and_generators_of_rows_are_kept(tmp_path: Path) -> None:
    rows = [
        {"material_id": f"mp-{n}", "generator": "LLM", "cif": cif_text(c)}
        for n, c in enumerate(CRYSTALS)
    ]
    write_csv(tmp_path / "a.csv", rows)
    found = crystals_of(tmp_path / "a.csv")
    assert [c.name for c in found] == ["LLM-mp-0", "LLM-mp-1", "LLM-mp-2"]
    assert found[0].origins[0].generator == "LLM"


def test_bad_rows_have_reasons_and_the_rest_is_read(tmp_path: Path) -> None:
    bad = [
        "", "{'sites': [", "data_x\n_cell_length_a 1", "not a crystal",
        "{'lattice': nan}", "{" * 3000, cif_text(CRYSTALS[0])[:400],
    ]  # fmt: skip
    rows = [{"cif": text} for text in (cif_text(CRYSTALS[0]), *bad, cif_text(CRYSTALS[1]))]
    write_csv(tmp_path / "a.csv", rows)
    records = read(tmp_path / "a.csv")
    assert len(records) == len(rows)
    assert isinstance(records[0], Crystal)
    assert isinstance(records[-1], Crystal)
    for record in records[1:-1]:
        assert isinstance(record, Unreadable)
        assert len(record.reason) < 320
    assert records[1].reason == "empty: the row has no structure"  # type: ignore[union-attr]


def test_a_table_without_structures_is_told_if_it_was_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "energies.csv", [{"name": "a", "energy": 1.0}])
    (reason,) = reasons_of(tmp_path / "energies.csv")
    assert reason == (
        "no structure: no column of structures among 'name', 'energy': is there one named 'cif'?"
    )
    with pytest.raises(SourceError, match="holds no crystal files"):
        find_files([tmp_path])
    # In a folder and in an archive it is something else that lies there.
    write(tmp_path / "a.cif", CRYSTALS[0])
    write_csv(tmp_path / "samples.csv", [{"cif": cif_text(CRYSTALS[1])}])
    assert len(crystals_of(tmp_path)) == 2
    (left_out,) = find_sources([tmp_path]).left_out
    assert left_out == LeftOut(str(tmp_path / "energies.csv"), "CSV tables without structures")
    for archive in (tmp_path / "a.zip", tmp_path / "a.tar.gz"):
        members = [tmp_path / n for n in ("a.cif", "samples.csv", "energies.csv")]
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive, "w") as stream:
                for member in members:
                    stream.write(member, member.name)
        else:
            with tarfile.open(archive, "w:gz") as tar:
                for member in members:
                    tar.add(member, member.name)
        assert len(crystals_of(archive)) == 2
        (left_out,) = find_sources([archive]).left_out
        assert left_out.path == f"{archive}::energies.csv"


def wyckoff_row(cell: Sequence[float], *sites: tuple[Sequence[float], int, int]) -> dict[str, str]:
    padding = 21 - len(sites)
    return {
        "L": json.dumps(list(cell)),
        "X": json.dumps([list(x) for x, _, _ in sites] + [[0.0] * 3] * padding),
        "A": json.dumps([z for _, z, _ in sites] + [0] * padding),
        "W": json.dumps([1] * len(sites) + [0] * padding),
        "M": json.dumps([m for _, _, m in sites] + [0] * padding),
    }


@pytest.mark.parametrize(
    ("group", "row", "spacegroup", "species"),
    [
        (225, wyckoff_row([5.64] * 3 + [90] * 3, ([0, 0, 0], 11, 4), ([0.5, 0.5, 0.5], 17, 4)),
         "Fm-3m", ["Na", "Cl"]),
        # Two choices of origin: with the second, diamond's site is at an eighth.
        (227, wyckoff_row([3.57] * 3 + [90] * 3, ([0.125, 0.125, 0.125], 6, 8)), "Fd-3m", ["C"]),
        (194, wyckoff_row([3.2, 3.2, 5.2, 90, 90, 120], ([1 / 3, 2 / 3, 0.25], 12, 2)),
         "P6_3/mmc", ["Mg"]),
        # Hexagonal axes.
        (166, wyckoff_row([4.3, 4.3, 11.9, 90, 90, 120], ([0, 0, 0.234], 83, 6)), "R-3m", ["Bi"]),
    ],
)  # fmt: skip
def test_wyckoff_positions_become_crystals(
    group: int, row: dict[str, str], spacegroup: str, species: list[str], tmp_path: Path
) -> None:
    """CrystalFormer's raw output, against pymatgen's own expansion where that has the setting."""
    path = tmp_path / f"output_{group}.csv"
    write_csv(path, [row])
    (crystal,) = crystals_of(path)
    structure = AseAtomsAdaptor.get_structure(crystal.to_ase())
    assert find_space_group(crystal.to_ase(), 1e-3).number == group
    sites = [x for x, z in zip(json.loads(row["X"]), json.loads(row["A"]), strict=True) if z]
    if group != 227:
        lattice = Lattice.from_parameters(*json.loads(row["L"]))
        expected = Structure.from_spacegroup(spacegroup, lattice, species, sites)
        assert structure.matches(expected, scale=False)
        assert len(structure) == len(expected)
    else:
        assert len(structure) == 8
        assert structure.get_distance(0, 1) > 1.5


def test_wyckoff_positions_that_do_not_go_together_have_reasons(tmp_path: Path) -> None:
    cell = [5.0] * 3 + [90] * 3
    write_csv(tmp_path / "output_225.csv", [wyckoff_row(cell, ([0, 0, 0], 11, 8))])
    assert "has 4 images, but a multiplicity of 8" in reasons_of(tmp_path / "output_225.csv")[0]
    write_csv(tmp_path / "output.csv", [wyckoff_row(cell, ([0, 0, 0], 11, 4))])
    assert "needs its space group at the end of its name" in reasons_of(tmp_path / "output.csv")[0]
    row = wyckoff_row(cell, ([0, 0, 0], 11, 4))
    write_csv(tmp_path / "output_225.csv", [row | {"A": "[1, 2]"}, row | {"X": "nothing"}, row])
    first, second, third = read(tmp_path / "output_225.csv")
    assert isinstance(first, Unreadable)
    assert isinstance(second, Unreadable)
    assert isinstance(third, Crystal)


@pytest.mark.parametrize("cut", [20, 120, -2])
def test_a_table_that_ends_within_a_cell_has_a_reason_for_its_last_row(
    tmp_path: Path, cut: int
) -> None:
    """A crystal of a copy that broke off would have fewer atoms, and nobody would know."""
    row = '"' + cif_text(bulk("NaCl", "rocksalt", a=5.64)).replace('"', '""') + '"\n'
    (tmp_path / "a.csv").write_text("cif\n" + row + row[:cut])
    crystal, problem = read(tmp_path / "a.csv")
    assert isinstance(crystal, Crystal)
    assert isinstance(problem, Unreadable)
    assert "a quoted cell does not end" in problem.reason
    (tmp_path / "a.csv").write_text('"cif\nname\n')
    (problem,) = read(tmp_path / "a.csv")
    assert isinstance(problem, Unreadable)
    assert "a quoted cell does not end" in problem.reason


def test_a_row_that_nobody_foresaw_does_not_end_the_table(tmp_path: Path) -> None:
    row = wyckoff_row([5.0] * 3 + [90] * 3, ([0, 0, 0], 11, 4))
    write_csv(tmp_path / "output_225.csv", [row | {"A": row["A"].replace("11", "NaN")}, row])
    first, second = read(tmp_path / "output_225.csv")
    assert isinstance(first, Unreadable)
    assert first.reason.startswith("syntax: ")
    assert isinstance(second, Crystal)


def test_a_run_takes_what_a_generator_wrote(tmp_path: Path) -> None:
    metals = [bulk("Cu"), bulk("Al"), bulk("Ag")]
    torch.save(flat_arrays(metals[:2]), tmp_path / "eval_gen.pt")
    write_csv(tmp_path / "samples.csv", [{"cif": cif_text(metals[2])}])
    command = [sys.executable, "-m", "hpcbench", "run", str(tmp_path), "--no-report"]
    command += [
        "--model",
        "ase.calculators.emt:EMT",
        "--mesh",
        "4",
        "4",
        "4",
        "--supercell",
        "2",
        "2",
        "2",
    ]
    command += ["--out", str(tmp_path / "s.h5"), "--band-points", "11", "--workers", "0"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "3 crystals: 3 done" in said


# Raw text of CrystaLLM, before its own post-processing: a block of what it says of atoms, the
# identity in the place of the operators, one site for each orbit, occupancies.
CRYSTALLM = """data_Na1Cl1
loop_
_atom_type_symbol
_atom_type_electronegativity
_atom_type_radius
_atom_type_ionic_radius
Na 0.9300 1.8000 1.1600
Cl 3.1600 1.0000 1.6700
_symmetry_space_group_name_H-M   Fm-3m
_cell_length_a   5.6400
_cell_length_b   5.6400
_cell_length_c   5.6400
_cell_angle_alpha   90.0000
_cell_angle_beta   90.0000
_cell_angle_gamma   90.0000
_symmetry_Int_Tables_number   225
_chemical_formula_structural   NaCl
_chemical_formula_sum   'Na4 Cl4'
_cell_volume   179.4062
_cell_formula_units_Z   4
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_symmetry_multiplicity
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Na  Na0  4  0.0000  0.0000  0.0000  1
  Cl  Cl1  4  0.0000  0.0000  0.5000  1
"""


def test_raw_texts_of_crystallm_are_mended_where_the_mending_is_known(tmp_path: Path) -> None:
    texts = {
        "good__1.cif": CRYSTALLM,
        "cut__1.cif": CRYSTALLM[:-20],
        "goes_on__1.cif": CRYSTALLM + "\n\ndata_K1\n_cell_length_a 4",
        "partial__1.cif": CRYSTALLM.replace("0.5000  1", "0.5000  0.5"),
        "other__1.cif": CRYSTALLM.replace("'Na4 Cl4'", "'Na4 Cl5'"),
        "no_head__1.cif": CRYSTALLM.replace("data_Na1Cl1", ""),
    }
    with tarfile.open(tmp_path / "raw.tar.gz", "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    found = {record.name: record for record in read(tmp_path / "raw.tar.gz")}
    for name in ("good__1", "goes_on__1"):
        record = found[name]
        assert isinstance(record, Crystal) and record.formula == "Cl4Na4"
        assert dict(record.origins[0].columns) == {"mended": "symmetry operators of Fm-3m"}
        assert find_space_group(record.to_ase(), 0.01).number == 225
    reasons = {n: r.reason.partition(":")[0] for n, r in found.items() if isinstance(r, Unreadable)}
    assert reasons == {"cut__1": "truncated", "partial__1": "disordered", "other__1": "formula",
                       "no_head__1": "syntax"}  # fmt: skip


MANIFEST = """
[[generators]]
name = "DiffCSP, MP-20"
files = ["diffcsp/eval_gen.pt"]

[[generators]]
name = "LLM"
files = ["llm", "more.txt"]
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two generators that wrote the same copper; one that wrote junk as well."""
    for folder in ("diffcsp", "llm"):
        (tmp_path / folder).mkdir()
    torch.save(flat_arrays([bulk("Cu"), bulk("Al"), bulk("Al")]), tmp_path / "diffcsp/eval_gen.pt")
    write_csv(tmp_path / "llm" / "samples.csv", [{"cif": cif_text(bulk("Ag"))}, {"cif": "junk"}])
    torch.save(flat_arrays([bulk("Cu"), bulk("Si")]), tmp_path / "more.pt")
    (tmp_path / "more.txt").write_text("more.pt  # by the same")
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST)
    return path


def test_a_manifest_names_the_generators_of_files(manifest: Path) -> None:
    records = read(manifest)
    found = [(r.name, (r.origins[0] if isinstance(r, Crystal) else r.origin).generator)
             for r in records]  # fmt: skip
    assert found == [
        *((f"eval_gen-{n}", "DiffCSP, MP-20") for n in range(3)),
        ("samples-0", "LLM"), ("samples-1", "LLM"), ("more-0", "LLM"), ("more-1", "LLM"),
    ]  # fmt: skip
    # A manifest that lies in a folder is not what the folder is read for.
    assert {f.made_by for f in find_files([manifest.parent])} == {Generator("")}


def test_a_run_of_a_manifest_counts_for_each_generator(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    command = ["run", str(manifest), "--model", "ase.calculators.emt:EMT", "--out", str(out)]
    command += [
        "--mesh",
        "4",
        "4",
        "4",
        "--band-points",
        "11",
        "--workers",
        "0",
        "--supercell",
        "2",
        "2",
        "2",
    ]
    assert main(command) == 1  # silicon is nothing for EMT
    store = hpcbench.open(out)
    assert len(store) == 5  # copper, aluminium, silver, silicon, and what could not be read
    copper = store.row(store.find("eval_gen-0"))
    assert {o.generator for o in origins_from_json(copper["origins"])} == {"DiffCSP, MP-20", "LLM"}
    found = {outcome.generator.label: outcome for outcome in outcomes_of(store.table)}
    one, other = found["DiffCSP, MP-20"], found["LLM"]
    assert (one.generated, one.readable, one.unique, one.suitable, one.done) == (3, 3, 2, 2, 2)
    # Silicon is nothing for EMT.
    assert (other.generated, other.readable, other.unique, other.suitable) == (4, 3, 3, 3)
    assert (one.stable, other.done, other.stable) == (2, 2, 2)
    assert other.rates["sampled"] == Rate(2, 3)
    assert other.reasons == {"potential": 1, "syntax": 1}
    page = (tmp_path / "s.h5.html").read_text()
    assert "<td>DiffCSP, MP-20</td>" in page
    assert main(["plan", str(manifest), "--model", "ase.calculators.emt:EMT"]) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no manifest: it has no [[generators]]. (Settings are given by --config.)"),
        ('model = "chgnet"', "is no manifest"),
        ("[[generators]", "is not valid TOML"),
        (MANIFEST + "\n[other]\n", "nothing else, not 'other'"),
        (MANIFEST.replace("LLM", "DiffCSP, MP-20"), "two generators 'DiffCSP, MP-20'"),
        (MANIFEST.replace('name = "LLM"', ""), "generator 2: name is missing"),
        (MANIFEST.replace("name =", "nmae ="), "did you mean 'name'?"),
        (
            MANIFEST.replace('["llm", "more.txt"]', "[]"),
            "generator 2: files expects a text or a list",
        ),
        (MANIFEST + "hours = -1\n", "hours expects a number above 0, not -1"),
        (MANIFEST + "batch_size = 2.5\n", "batch_size expects a whole number"),
        (MANIFEST.replace("more.txt", "manifest.toml"), "names itself"),
    ],
)
def test_a_wrong_manifest_is_one_sentence(
    text: str, says: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write_text(text)
    command = ["run", str(manifest), "--model", "ase.calculators.emt:EMT"]
    assert main([*command, "--out", str(manifest.with_name("s.h5"))]) == 2
    assert says in capsys.readouterr().err


def test_what_a_manifest_says_goes_with_the_crystals(tmp_path: Path) -> None:
    silver = {"cif": cif_text(bulk("Ag")), "hull": " 0.05", "note": "x"}
    write_csv(tmp_path / "a.csv", [silver, {"cif": cif_text(bulk("Cu")), "hull": "", "note": ""}])
    atoms = bulk("Au")
    atoms.info.update(e_above_hull=0.25, tags=[1, 2])
    write(tmp_path / "b.extxyz", atoms)
    (tmp_path / "m.toml").write_text(
        '[[generators]]\nname = "M"\ntraining_set = "MP-20"\ncondition = "band gap 0.5 eV"\n'
        'files = ["a.csv", "$FOLDER/b.extxyz"]\n'
        'columns = ["hull", "note", "e_above_hull", "tags"]\n'
        'hours = 2\ngenerated = 1200\nbatch_size = 50\narchitecture = "GNN"\nparameters = 53.7\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLDER", str(tmp_path))
        records = crystals_of(tmp_path / "m.toml")
    origins = [record.origins[0] for record in records]
    assert [dict(origin.columns) for origin in origins] == [
        {"hull": 0.05, "note": "x"}, {}, {"e_above_hull": 0.25},
    ]  # fmt: skip
    expected = Generator("M", "MP-20", "band gap 0.5 eV", 2.0, 1200, 50, "GNN", 53.7)
    assert {origin.made_by for origin in origins} == {expected}
    assert expected.label == "M, MP-20, band gap 0.5 eV"


def test_a_missing_file_of_a_manifest_is_recorded_and_the_rest_goes_on(
    manifest: Path, tmp_path: Path
) -> None:
    text = MANIFEST.replace("more.txt", "gone.cif") + "[[generators]]\nname='B'\nfiles='no/*.cif'\n"
    (tmp_path / "empty").mkdir()
    manifest.write_text(text.replace('"llm"', '"llm", "empty"'))
    records = read(manifest)
    assert len([r for r in records if isinstance(r, Crystal)]) == 4
    reasons = {r.origin.generator + ": " + r.reason for r in records if isinstance(r, Unreadable)}
    assert any(r.startswith("LLM: file: There is no file or folder") for r in reasons)
    assert any(r.startswith("LLM: file: The folder") and "no crystal files" in r for r in reasons)
    assert any(r.startswith("B: file: No file matches the pattern") for r in reasons)
    # What comes after it in a pattern is read.
    for n, atoms in ((1, bulk("Pd")), (3, bulk("Pt"))):
        (tmp_path / f"part{n}").mkdir()
        write(tmp_path / f"part{n}" / "a.cif", atoms)
    (tmp_path / "part2").mkdir()
    manifest.write_text("[[generators]]\nname = 'B'\nfiles = 'part*'\n")
    kinds = [type(record).__name__ for record in read(manifest)]
    assert kinds == ["Crystal", "Unreadable", "Crystal"]
    # Of a list in a manifest as well, with its line.
    manifest.write_text(MANIFEST)
    (tmp_path / "more.txt").write_text("# more\ngone.pt\nmore.pt\n")
    (reason,) = (
        r.reason for r in read(manifest) if isinstance(r, Unreadable) and "gone" in r.reason
    )
    assert "more.txt, line 2" in reason
    assert any(r.name.startswith("more-") for r in read(manifest) if isinstance(r, Crystal))


NATIVE = (
    ("diffcsp/DiffCSP_mp_20.pt", 10_000, 0),
    ("crystalformer/CrystalFormer_mp_20.csv.gz", 999, 0),
    ("crystalformer/output_65.csv", 10, 0),
    ("flowmm", 997, 0),
    ("wyckofftransformer", 1000, 0),
    ("mattergen/run1", 16, 0),
    ("mattergen/release-cifs.zip", 770, 2),
)


@pytest.mark.reference
@pytest.mark.parametrize(("path", "number", "bad"), NATIVE)
def test_real_files_are_read_whole_and_fast(
    path: str, number: int, bad: int, reference_data: Path
) -> None:
    native = reference_data / "generated" / "native"
    start = time.process_time()
    kinds = Counter(isinstance(record, Unreadable) for record in read(native / path))
    seconds = time.process_time() - start
    assert (kinds[False], kinds[True]) == (number, bad)
    if number > 500:
        # 5,000 a minute are wanted of one core.
        assert number / seconds > 5000 / 60


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING")  # spglib's
def test_all_groups_are_expanded_in_crystalformers_setting(reference_data: Path) -> None:
    """By its own list of Wyckoff positions: the general one of each group is the group."""
    from hpcbench.sources.csv_rows import _operations_of

    path = reference_data / "generated" / "native" / "crystalformer" / "wyckoff_list.csv"
    site = np.array([0.1234, 0.2718, 0.4142])
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 230
    for row in rows:
        general = max(json.loads(row["Wyckoff Positions"].replace("'", '"')), key=len)
        x, y, z = site
        expected = [
            [eval(part, {"x": x, "y": y, "z": z}) for part in text.split(",")] for text in general
        ]
        rotations, translations = _operations_of(int(row["Space Group"]))
        images = rotations @ site + translations
        key = lambda points: sorted(map(tuple, (np.round(points, 6) % 1.0).round(6)))  # noqa: E731
        assert key(np.array(expected)) == key(images)


# ---------------------------------------------------------------- bad input


def test_a_bomb_of_a_cif_ends_with_a_reason(tmp_path: Path) -> None:
    """Loops of a million atoms, and a small site that symmetry multiplies: neither takes the
    memory or the time of a run, and what is beside it is read."""
    head = CRYSTALLM.partition("  Na  Na0")[0]
    lines = [f"  Na  Na{n}  1  {n / 7 % 1:.4f}  {n / 11 % 1:.4f}  0.1  1\n" for n in range(200_000)]
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.cif", head + "".join(lines))
        archive.writestr("shorter.cif", head + "".join(lines[:12_000]))
        archive.writestr("symmetry.cif", head + "".join(lines[:1000]))
        archive.writestr("zeros.cif", head + "0" * 50_000_000)
        archive.writestr("good.cif", cif_text(bulk("Cu")))
    start = time.monotonic()
    found = {record.name: record for record in read(tmp_path / "all.zip")}
    assert time.monotonic() - start < 60
    assert isinstance(found["good"], Crystal)
    for name in ("bomb", "shorter", "symmetry"):
        assert found[name].reason.startswith("too large: "), name
    assert isinstance(found["zeros"], Unreadable)


def test_ten_thousand_copies_of_a_crystal_are_one(tmp_path: Path) -> None:
    text = '1\nLattice="0 1.8 1.8 1.8 0 1.8 1.8 1.8 0" pbc="T T T"\nCu 0 0 0\n'
    (tmp_path / "copies.extxyz").write_text(text * 10_000)
    out, start = tmp_path / "s.h5", time.monotonic()
    command = ["run", str(tmp_path / "copies.extxyz"), "--model", "ase.calculators.emt:EMT"]
    command += [
        "--supercell",
        "2",
        "2",
        "2",
        "--out",
        str(out),
        "--workers",
        "0",
        "--mesh",
        "4",
        "4",
        "4",
        "--no-report",
    ]
    assert main(command) == 0
    assert time.monotonic() - start < 60
    store = hpcbench.open(out)
    assert len(store) == 1
    (found,) = outcomes_of(store.table)
    assert (found.generated, found.unique, found.done) == (10_000, 1, 1)


def test_odd_names_reach_the_report(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "odd" & <b> \u2603'
    folder.mkdir()
    write(folder / "Cu $(touch x) %s.cif", bulk("Cu"))
    (tmp_path / "m.toml").write_text(
        "[[generators]]\nname = '<script>alert(1)</script> %s $x^$'\n"
        f"files = {json.dumps(str(folder))}\n"
    )
    out = tmp_path / "s.h5"
    command = ["run", str(tmp_path / "m.toml"), "--model", "ase.calculators.emt:EMT"]
    command += ["--supercell", "2", "2", "2"]
    assert main([*command, "--out", str(out), "--workers", "0", "--mesh", "4", "4", "4"]) == 0
    page = appended(out, ".html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "Cu $(touch x) %s" in page


def test_a_truncated_archive_in_a_manifest_lets_the_rest_go_on(manifest: Path) -> None:
    folder = manifest.parent
    with zipfile.ZipFile(folder / "whole.zip", "w") as archive:
        for n in range(5):
            archive.writestr(f"gen_{n}.cif", cif_text(bulk("Cu", a=3.5 + 0.1 * n)))
    (folder / "torn.zip").write_bytes((folder / "whole.zip").read_bytes()[:1500])
    (folder / "none.csv").write_text("name,energy\na,1\n")
    manifest.write_text(
        MANIFEST.replace("more.txt", "torn.zip", 1).replace('"llm"', '"llm", "none.csv"')
    )
    records = read(manifest)
    reasons = [r.reason for r in records if isinstance(r, Unreadable)]
    assert any(r.startswith("archive: ") for r in reasons)
    assert any(r.startswith("no structure: no column of structures among 'name'") for r in reasons)
    assert len([r for r in records if isinstance(r, Crystal)]) == 4
