"""Which crystals count: primitive cells, duplicates, known ones, samples; in a run as well."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import write
from launching import run, run_here
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.io.ase import AseAtomsAdaptor

import hpcbench
from hpcbench.analysis.generators import outcomes_of
from hpcbench.cli import main
from hpcbench.config_loading import load_config
from hpcbench.crystal import Crystal
from hpcbench.curation.duplicates import candidates_of, formula_of, matches_of
from hpcbench.curation.primitive import primitive_of
from hpcbench.curation.sampling import in_random_order, sample
from hpcbench.errors import SetupError, SourceError
from hpcbench.origin import Generator, Origin, origins_from_json, origins_to_json
from hpcbench.planning.crystal_list import CrystalList, read_share, together
from hpcbench.planning.curated_list import apply, curated
from hpcbench.sources import find_files, read_file

NACL = bulk("NaCl", "rocksalt", a=5.64)
CSCL = bulk("NaCl", "cesiumchloride", a=3.5)


def crystal(atoms: Atoms, name: str = "", *origins: Origin) -> Crystal:
    return Crystal.from_ase(atoms, name, origins)


def in_other_words(atoms: Atoms, seed: int = 0, rattle: float = 0.01) -> Atoms:
    """Another cell, orientation, origin, order of atoms and volume, positions a little off."""
    rng = np.random.default_rng(seed)
    other = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    other.rotate(rng.uniform(0, 180), rng.standard_normal(3), rotate_cell=True)
    other.positions += rng.uniform(-1, 1, 3) + rng.normal(0.0, rattle, other.positions.shape)
    other.set_cell(other.cell * 1.02, scale_atoms=True)
    return other[rng.permutation(len(other))]


# ---------------------------------------------------------------- where crystals come from


def test_origins_are_written_and_read_back() -> None:
    origins = (
        Origin("a.cif"),
        Origin("b.zip::c.cif", 3, Generator("LLM")),
        Origin("d", 1, Generator("A", "MP-20", "band gap 0.5 eV", 2.5, 100, 50, "GNN", 53.7),
               "duplicate: of 0123", (("e_above_hull", 0.1), ("group", "Fm-3m"))),
        Origin("e", columns=(("novelty", "novel"),)),
    )  # fmt: skip
    text = origins_to_json(origins)
    assert origins_from_json(text) == origins
    # Nothing is said of what there is nothing to say of; older stores have the same.
    assert json.loads(text)[:2] == [["a.cif", 0, ""], ["b.zip::c.cif", 3, "LLM"]]
    assert origins_from_json("") == ()


# ---------------------------------------------------------------- primitive cells


@pytest.mark.parametrize("atoms", [bulk("NaCl", "rocksalt", a=5.64, cubic=True),
                                   make_supercell(bulk("Mg"), np.diag([2, 1, 3])),
                                   bulk("Si", cubic=True)])  # fmt: skip
def test_a_primitive_cell_is_the_same_crystal_neither_turned_nor_moved(atoms: Atoms) -> None:
    found = primitive_of(crystal(atoms, "it", Origin("file")), 0.01)
    expected = AseAtomsAdaptor.get_structure(atoms).get_primitive_structure()
    assert found.natoms == len(expected) < len(atoms)
    assert (found.name, found.origins) == ("it", (Origin("file"),))
    # The given lattice is one of this one's, and each given atom is one of this cell's.
    turns = atoms.cell[:] @ np.linalg.inv(found.cell)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-9)
    for position, number in zip(atoms.positions, atoms.numbers, strict=True):
        shifts = (position - found.positions) @ np.linalg.inv(found.cell)
        at = np.abs(shifts - np.rint(shifts)).max(axis=1).argmin()
        assert np.abs(shifts[at] - np.rint(shifts[at])).max() < 1e-6
        assert found.numbers[at] == number


def test_what_is_primitive_or_makes_no_sense_stays_as_it_is() -> None:
    asks = Crystal.from_arrays(
        "", (), *(lambda a: (a.cell[:], a.positions, a.numbers))(bulk("Si", cubic=True)), np.eye(3)
    )
    broken = bulk("Si", cubic=True)
    broken.positions[0, 0] = np.nan
    for one in (crystal(bulk("Si")), asks, crystal(broken)):
        assert primitive_of(one, 0.01) is one


# ---------------------------------------------------------------- samples


def test_samples_of_a_seed_hold_each_other_whatever_the_order() -> None:
    ids = [f"{n:016x}" for n in range(1000)]
    samples = [sample(ids, n, 5) for n in (10, 100, 1000, 5000)]
    assert [len(s) for s in samples] == [10, 100, 1000, 1000]
    assert samples[0] < samples[1] < samples[2] == samples[3]
    assert sample(reversed(ids), 100, 5) == samples[1]
    assert len(sample(ids, 100, 6) & samples[1]) < 40  # 10 by chance
    # Each id comes about as often as any other, over seeds.
    times = Counter(
        itertools.chain.from_iterable(sample(ids[:50], 10, seed) for seed in range(500))
    )
    assert min(times.values()) > 60 and max(times.values()) < 145  # 100, with a deviation of 9
    assert in_random_order(ids, 1) != ids


# ---------------------------------------------------------------- duplicates


def matches(sets: dict[str, list[Crystal]], references: list[Crystal] = ()):  # type: ignore[no-untyped-def,assignment]
    found = [matches_of(group) for group in candidates_of(sets, references)]
    duplicates = {key: first for one in found for key, first in one.duplicates.items()}
    return duplicates, {key: name for one in found for key, name in one.known.items()}


@pytest.mark.parametrize("name", ["NaCl", "Mg", "diamond", "low"])
def test_a_crystal_in_other_words_is_a_duplicate(name: str) -> None:
    atoms = {
        "NaCl": NACL,
        "Mg": bulk("Mg"),
        "diamond": bulk("C"),
        "low": Atoms("TiO2", scaled_positions=[[0, 0, 0], [0.3, 0.31, 0.1], [0.7, 0.6, 0.9]],
                     cell=[[4.1, 0, 0], [0.7, 4.5, 0], [0.3, -0.4, 3.9]], pbc=True),
    }[name]  # fmt: skip
    first = crystal(atoms)
    others = [crystal(in_other_words(atoms, seed)) for seed in range(3)]
    assert len({c.id for c in (first, *others)}) == 4
    duplicates, _ = matches({"": [first, *others]})
    assert duplicates == {("", other.id): first.id for other in others}


def test_another_structure_of_the_same_formula_is_none() -> None:
    duplicates, known = matches({"": [crystal(NACL), crystal(CSCL)]}, [crystal(CSCL, "known")])
    assert duplicates == {}
    assert known == {crystal(CSCL).id: "known"}


def test_duplicates_are_those_of_one_generator() -> None:
    one, other = crystal(NACL), crystal(in_other_words(NACL))
    assert matches({"A": [one], "B": [other]}) == ({}, {})
    duplicates, _ = matches({"A": [one, other], "B": [other, one]})
    assert duplicates == {("A", other.id): one.id, ("B", one.id): other.id}


def test_a_strange_crystal_is_the_same_as_none() -> None:
    flat = Atoms("NaCl", [(0, 0, 0), (1, 0, 0)], cell=[3, 3, 1e-9], pbc=True)
    needle = Atoms(
        "NaCl", [(0, 0, 0), (1, 0, 0)], cell=[[3, 0, 0], [0, 3, 0], [1, 1, 5000]], pbc=True
    )
    broken = Atoms("NaCl", [(0, 0, 0), (np.nan, 0, 0)], cell=[3, 3, 3], pbc=True)
    strange = [crystal(atoms) for atoms in (flat, needle, broken)]
    start = time.monotonic()
    assert matches({"": [*strange, crystal(NACL)]}, strange) == ({}, {})
    assert time.monotonic() - start < 10
    # A long cell that is still a crystal has its duplicates.
    long = make_supercell(CSCL, np.diag([1, 1, 30]))
    long.positions[0, 2] += 0.4
    other = long.copy()
    other.rotate(40, (1, 2, 3), rotate_cell=True)
    other.positions += 0.7
    assert len(matches({"": [crystal(long), crystal(other)]})[0]) == 1


def test_copies_of_one_crystal_take_no_time_to_speak_of() -> None:
    """A generator that has collapsed to one crystal: each copy is compared with the first only."""
    copies = [crystal(in_other_words(NACL, seed, 1e-3)) for seed in range(300)]
    start = time.monotonic()
    duplicates, _ = matches({"": copies})
    assert set(duplicates.values()) == {copies[0].id} and len(duplicates) == 299
    assert time.monotonic() - start < 30


def test_nothing_is_lost_by_asking_pymatgen_only_of_some(reference_data: Path) -> None:
    """Real generated crystals of one formula: the same answers as pymatgen's for each pair."""
    (file,) = find_files([reference_data / "generated/native/diffcsp/DiffCSP_mp_20.pt"])
    groups: dict[object, list[Crystal]] = {}
    for record in itertools.islice(read_file(file), 4000):
        if isinstance(record, Crystal):
            groups.setdefault(formula_of(record), []).append(record)
    pairs = [p for g in groups.values() for p in itertools.combinations(g[:4], 2)]
    assert len(pairs) > 100
    matcher, same = StructureMatcher(), 0
    for one, other in pairs:
        structures = [AseAtomsAdaptor.get_structure(c.to_ase()) for c in (one, other)]
        expected = matcher.fit(*structures)
        found, _ = matches({"": [one, other]})
        assert bool(found) == expected, (one.name, other.name)
        same += expected
    assert 30 < same < len(pairs) - 30


# ---------------------------------------------------------------- lists


def listing(config, files=None, size: int = 1) -> CrystalList:  # type: ignore[no-untyped-def]
    files = find_files(config.sources) if files is None else files
    shares = [read_share(config, files, None, rank, size) for rank in range(size)]
    assert not [s for s in shares if isinstance(s, SetupError)]
    return together(config, shares)


def fates(found: CrystalList) -> dict[str, str]:
    return {e.record.name: e.problem.reason if e.problem else "" for e in found.crystals}


def test_what_a_run_sets_aside_and_marks(tmp_path: Path) -> None:
    frames = [NACL, in_other_words(NACL), CSCL, bulk("Cu"), bulk("Cu", a=3.7)]
    write(tmp_path / "given.extxyz", frames)
    write(tmp_path / "known.extxyz", [in_other_words(CSCL), bulk("Si")])
    sources = [str(tmp_path / "given.extxyz")]
    flags = {"sources": sources, "unique": True, "against": [str(tmp_path / "known.extxyz")]}
    config = load_config(flags, environment={})
    found = curated(config, listing(config))
    first = found.crystals[0].record.id
    copper = found.crystals[3].record.id
    assert fates(found) == {
        "given-0": "", "given-1": f"duplicate: of {first}", "given-2": "", "given-3": "",
        "given-4": f"duplicate: of {copper}",
    }  # fmt: skip
    columns = [dict(e.record.origins[0].columns)["novelty"] for e in found.crystals]
    assert columns == ["novel", "novel", "known: known-0", "novel", "novel"]
    # What is set aside is no work.
    assert [e.work is None for e in found.crystals] == [False, True, False, False, True]


def test_each_generator_has_its_own_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        frames = [bulk("Cu", a=3.6 + 0.01 * n) for n in range(20)]  # both have the same
        write(tmp_path / f"{name}.extxyz", [frames[n] for n in rng.permutation(20)])
    text = "".join(f'[[generators]]\nname = "{n}"\nfiles = "{n}.extxyz"\n' for n in "ab")
    (tmp_path / "m.toml").write_text(text)
    config = load_config({"sources": [str(tmp_path / "m.toml")], "sample": 5}, environment={})
    found = curated(config, listing(config))
    counts = Counter(
        origin.generator
        for entry in found.crystals
        for origin in entry.record.origins
        if not origin.set_aside
    )
    assert counts == {"a": 5, "b": 5}
    aside = [e for e in found.crystals if e.problem]
    assert len(found.crystals) == 20 and len(aside) == 15  # the same ids, so the same sample
    assert {e.problem.reason for e in aside} == {"not sampled: seed 0"}
    larger = dataclasses.replace(config, sample=8)
    more = curated(larger, listing(larger))
    assert {e.record.id for e in found.crystals if not e.problem} < {
        e.record.id for e in more.crystals if not e.problem
    }
    # Without a wish nothing is set aside.
    plain = dataclasses.replace(config, sample=0)
    assert not [e for e in curated(plain, listing(plain)).crystals if e.problem]


def test_samples_are_drawn_from_crystals_that_are_small_enough(tmp_path: Path) -> None:
    cells = [bulk("Cu", a=3.6 + 0.01 * n, cubic=bool(n % 2)) for n in range(10)]
    write(tmp_path / "given.extxyz", cells)
    flags = {"sources": [str(tmp_path / "given.extxyz")], "max_atoms": 2, "sample": 4}
    config = load_config(flags, environment={})
    reasons = Counter(fates(curated(config, listing(config))).values())
    assert reasons == {
        "": 4, "not sampled: seed 0": 1, "not sampled: more than 2 atoms": 5,
    }  # fmt: skip


def test_known_crystals_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    write(tmp_path / "given.extxyz", [NACL])
    (tmp_path / "known.cif").write_text("junk")
    flags = {"sources": [str(tmp_path / "given.extxyz")], "against": [str(tmp_path / "known.cif")]}
    config = load_config(flags, environment={})
    with pytest.raises(SourceError, match="no readable crystal in --against"):
        curated(config, listing(config))


def test_ranks_share_what_is_in_large_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive and a long file are shared record by record: the same list with any ranks."""
    monkeypatch.setattr("hpcbench.planning.crystal_list._LARGE", 1200)
    metals = [bulk(s, a=a) for s in ("Cu", "Al", "Ni", "Ag") for a in (3.6, 3.8, 4.0, 4.2)]
    write(tmp_path / "long.extxyz", metals[:10])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for n, atoms in enumerate(metals[6:]):
            write(tmp_path / "one.cif", atoms)
            archive.write(tmp_path / "one.cif", f"gen_{n}.cif")
        archive.writestr("gen_bad.cif", "junk")
        archive.write(tmp_path / "long.extxyz", "frames.extxyz")
        archive.writestr("notes.txt", "no crystal")
    (tmp_path / "one.cif").rename(tmp_path / "small.cif")
    config = load_config({"sources": [str(tmp_path)]}, environment={})
    one = listing(config)
    assert len(one.crystals) >= 16 and len(one.unreadable) == 1
    files = find_files(config.sources)
    total = len(read_share(config, files, None, 0, 1))
    for size in (2, 3, 40):
        shares = [read_share(config, files, None, rank, size) for rank in range(size)]
        # Each of the small files goes to one rank, of the others each has its part.
        assert max(len(share) for share in shares) <= total / size + 5
        other = together(config, shares)
        assert [(e.record.id, e.record.name, e.record.origins) for e in other.crystals] == [
            (e.record.id, e.record.name, e.record.origins) for e in one.crystals
        ]
        assert other.unreadable == one.unreadable


def test_a_list_without_origins_is_left_alone() -> None:
    config = load_config({"sources": ["x"], "sample": 1}, environment={})
    found = together(config, [[*_listed(config, [NACL])]])
    assert apply(found, config, []).crystals[0].problem is None


def _listed(config, atoms):  # type: ignore[no-untyped-def]
    from hpcbench.planning.crystal_list import listed

    return [listed((0, n), crystal(a), config) for n, a in enumerate(atoms)]


# ---------------------------------------------------------------- runs

EMT = ["--model", "ase.calculators.emt:EMT", "--mesh", "4", "4", "4", "--band-points", "11",
       "--workers", "0", "--no-report", "--supercell", "2", "2", "2"]  # fmt: skip


def test_a_run_sets_aside_and_a_later_one_computes_what_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [3.55, 3.6, 3.65, 3.7]
    frames = [bulk(s, a=a) for s, a in itertools.product(("Cu", "Ni"), cells)]
    write(tmp_path / "given.extxyz", frames)
    out = tmp_path / "s.h5"
    command = ["run", str(tmp_path / "given.extxyz"), "--out", str(out), *EMT]
    assert main([*command, "--sample", "3"]) == 0
    assert "3 crystals (5 more set aside), 3 to compute on 1 rank" in capsys.readouterr().out
    store = hpcbench.open(out)
    statuses = Counter(store.table["status"])
    assert statuses == {"done": 3, "set aside": 5}
    assert store.unfinished_ids() == [] and len(store.finished_ids()) == 3
    before = {i: store.row(i)["finished"] for i in store.finished_ids()}
    # The same again: nothing to do. A larger sample: the others of it.
    assert main([*command, "--sample", "3"]) == 0
    assert main([*command, "--sample", "5"]) == 0
    store = hpcbench.open(out)
    assert Counter(store.table["status"]) == {"done": 5, "set aside": 3}
    assert {i: store.row(i)["finished"] for i in before} == before
    # All: nothing is set aside any more. A smaller sample loses no results.
    assert main(command) == 0
    assert Counter(hpcbench.open(out).table["status"]) == {"done": 8}
    assert main([*command, "--sample", "3", "--unique"]) == 0
    store = hpcbench.open(out)
    assert Counter(store.table["status"]) == {"done": 8}
    fate = [origins_from_json(text)[0].set_aside for text in store.table["origins"]]
    assert sum(text.startswith("duplicate: of ") for text in fate) == 6  # of volume alone
    assert main(["verify", str(out)]) == 0
    assert main(["plan", str(tmp_path / "given.extxyz"), *EMT[:2], "--unique"]) == 0
    assert "duplicate" in capsys.readouterr().out


def test_results_of_what_was_set_aside_count_before_they_are_consolidated(tmp_path: Path) -> None:
    """A later run that is killed: its segments stand beside rows that say set aside."""
    frames = [bulk("Cu", a=3.55 + 0.02 * n) for n in range(6)]
    write(tmp_path / "given.extxyz", frames)
    out = tmp_path / "s.h5"
    command = ["run", str(tmp_path / "given.extxyz"), "--out", str(out), *EMT]
    assert main([*command, "--sample", "2"]) == 0
    first, listed = out.read_bytes(), hpcbench.open(out).folder.crystals
    assert main([*command, "--sample", "4"]) == 0
    # As if the second run had been killed before its end: its rows in a segment.
    folder = hpcbench.open(out).folder
    folder.next_segment(0).write_bytes(out.read_bytes())
    out.write_bytes(first)
    assert listed.exists()
    store = hpcbench.open(out)
    assert Counter(store.table["status"]) == {"done": 4, "set aside": 2}
    assert len(store.finished_ids()) == 4 and store.unfinished_ids() == []
    # Columns are in the order of the ids.
    cells = dict(zip(store.ids, store.column("cell"), strict=True))
    for key in store.ids:
        np.testing.assert_array_equal(cells[key], store.row(key)["cell"])
    assert main(["verify", str(out)]) == 0
    assert main(["consolidate", str(out)]) == 0
    assert Counter(hpcbench.open(out).table["status"]) == {"done": 4, "set aside": 2}


def test_what_other_commands_make_of_what_was_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "given.extxyz", [bulk("Cu", a=3.55 + 0.02 * n) for n in range(8)])
    stores = []
    for seed in (0, 2):
        stores.append(tmp_path / f"{seed}.h5")
        command = ["run", str(tmp_path / "given.extxyz"), "--out", str(stores[-1]), *EMT]
        assert main([*command, "--sample", "4", "--seed", str(seed)]) == 0
    done = [set(hpcbench.open(s).where("status == 'done'").ids) for s in stores]
    assert done[0] != done[1]
    # Of two samples the crystals of either.
    assert main(["merge", *map(str, stores), "--out", str(tmp_path / "both.h5")]) == 0
    both = hpcbench.open(tmp_path / "both.h5")
    assert set(both.where("status == 'done'").ids) == done[0] | done[1]
    (found,) = outcomes_of(both.table)
    assert (found.generated, found.done) == (8, len(done[0] | done[1]))
    # Only what was computed is labelled, compared, and analysed again.
    assert main(["export", str(stores[0]), "--format", "phononbench",
                 "--out", str(tmp_path / "labels")]) == 0  # fmt: skip
    (labels,) = (tmp_path / "labels").rglob("Lable.txt")
    assert len(labels.read_text().splitlines()) == 4
    capsys.readouterr()
    main(["diff", *map(str, stores)])
    assert "inf" not in capsys.readouterr().out
    assert main(["reanalyse", str(stores[0]), "--mesh", "5", "5", "5"]) == 0
    again = hpcbench.open(tmp_path / "0.again.h5")
    assert set(again.ids) == done[0] and again.unfinished_ids() == []


def test_what_is_said_of_a_crystal_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "given.extxyz", [bulk("Cu")])
    (tmp_path / "m.toml").write_text('[[generators]]\nname = "Gen"\nfiles = "given.extxyz"\n')
    out = tmp_path / "s.h5"
    command = ["run", str(tmp_path / "m.toml"), "--out", str(out), *EMT]
    assert main([*command, "--against", str(tmp_path / "given.extxyz")]) == 0
    capsys.readouterr()
    assert main(["show", "given", "--store", str(out)]) == 0
    assert "given.extxyz#0 (Gen; novelty: known: given)" in capsys.readouterr().out.replace(
        "\n", ""
    )


def test_a_crystal_that_is_retried_and_then_not_sampled(tmp_path: Path) -> None:
    overlapping = Atoms("Cu2", [(0, 0, 0), (0.1, 0, 0)], cell=[4, 4, 4], pbc=True)
    write(tmp_path / "given.extxyz", [bulk("Cu"), overlapping, bulk("Ni"), bulk("Al")])
    out = tmp_path / "s.h5"
    command = ["run", str(tmp_path / "given.extxyz"), "--out", str(out), *EMT]
    assert main(command) == 1
    assert main([*command, "--retry-failed"]) == 1
    for number in ("1", "2", "3"):
        assert main([*command, "--sample", number]) in (0, 1)
        store = hpcbench.open(out)
        assert len(store.finished_ids()) >= 3 and store.unfinished_ids() == []


def test_primitive_cells_from_python() -> None:
    result = hpcbench.run(
        [bulk("Cu", cubic=True), bulk("Ni")], model="ase.calculators.emt:EMT", primitive=True,
        mesh=(4, 4, 4), workers=0, supercell=(2, 2, 2),
    )  # fmt: skip
    assert list(result.table["natoms"]) == [1, 1]


def test_ranks_share_the_comparisons_and_come_to_the_same_list(tmp_path: Path) -> None:
    frames = [bulk(s, a=a) for s, a in itertools.product(("Cu", "Ni", "Al"), (3.6, 3.7, 3.9))]
    write(tmp_path / "given.extxyz", frames)
    write(tmp_path / "known.extxyz", bulk("Ni"))
    flags = ["--unique", "--against", str(tmp_path / "known.extxyz"), "--sample", "2"]
    tables = []
    for ranks in (1, 3):
        out = tmp_path / f"{ranks}.h5"
        words = [str(tmp_path / "given.extxyz"), "--out", str(out), *flags]
        if ranks == 1:
            assert run_here(words) == 0
        else:
            done = run(words, ranks)
            assert done.returncode == 0, done.stderr
        table = hpcbench.open(out).table.sort_index()
        tables.append(table[["origins", "status", "reason", "verdict"]])
    one, several = tables
    assert one.equals(several)
    assert Counter(one["status"]) == {"done": 2, "set aside": 7}


def test_a_rank_that_cannot_read_the_known_crystals_ends_all(tmp_path: Path) -> None:
    write(tmp_path / "given.extxyz", bulk("Cu"))
    arguments = [str(tmp_path / "given.extxyz"), "--out", str(tmp_path / "s.h5")]
    done = run([*arguments, "--against", str(tmp_path / "nothing.csv")], ranks=2)
    assert done.returncode == 2
    assert done.stderr.count("There is no file or folder") == 1
