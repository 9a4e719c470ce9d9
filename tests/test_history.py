"""One crystal, one answer: the last computation decides, and everything shown is from it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import phonopy
import pytest
from ase.build import bulk
from ase.io import write

import hpcbench
from hpcbench.cli import main
from hpcbench.criteria import CRITERIA
from hpcbench.errors import UsageError
from hpcbench.interop.phononbench import label_of
from hpcbench.report.benchmark_json import benchmark_json
from hpcbench.report.drawings import bands_svg
from hpcbench.report.history import history_of
from hpcbench.report.html import write_report
from hpcbench.results.rows import Computation, row_of, rows_of
from hpcbench.store.schema import BESIDE

QUICK = ["--mesh", "4", "4", "4", "--band-points", "11", "--workers", "0", "--no-report"]
# Of phonons: whatever follows from the forces of one computation.
NUMBERS = (
    "force_constants", "band_frequencies", "band_qpoints", "commensurate_frequencies",
    "commensurate_qpoints", "mode_frequencies", "mode_qpoints", "supercell_matrix", "p2s_map",
    "free_energy", "margin", "force_noise", "max_frequency", "gamma_acoustic",
    "min_frequency_path", "min_frequency_commensurate", "min_frequency_mesh",
)  # fmt: skip
WORDS = ("verdict", *(c.column for c in CRITERIA), "within_noise", "character", "band_labels")


# ---------------------------------------------------------------- putting rows together


def test_the_last_computation_is_the_crystals_row() -> None:
    common = {"id": "abc", "name": "salt", "energy": -1.0, "notes": ""}
    provenance = json.dumps({"dtype": "float32", "device": "cpu"})
    done = [
        Computation("first", {"verdict": "undetermined", "margin": 0.1, "notes": ""}),
        Computation(
            "float64", {"verdict": "unstable", "margin": -0.1, "notes": ""}, in_double=True
        ),
        Computation("larger", {"verdict": "stable", "margin": 0.2, "notes": ""}, in_double=True),
    ]
    last, *history = rows_of(common, done, provenance)
    found = [(row["id"], row["parent"], row["again"], row["verdict"]) for row in (last, *history)]
    assert found == [
        ("abc", "", "larger", "stable"),
        ("abc:first", "abc", "first", "undetermined"),
        ("abc:float64", "abc", "float64", "unstable"),
    ]
    assert [row["margin"] for row in (last, *history)] == [0.2, 0.1, -0.1]
    assert [json.loads(row["provenance"])["dtype"] for row in (last, *history)] == [
        "float64", "float32", "float64",
    ]  # fmt: skip
    assert all(row["energy"] == -1.0 for row in (last, *history))


def test_a_crystal_that_is_computed_once_has_no_history() -> None:
    (row,) = rows_of(
        {"id": "abc", "notes": ""},
        [Computation("first", {"verdict": "stable", "notes": ""})],
        "{}",
    )
    assert (row["id"], row["parent"], row["again"], row["verdict"]) == ("abc", "", "", "stable")
    beside = row_of(row, BESIDE)
    assert (beside["id"], beside["parent"], beside["again"]) == (
        "abc:phononbench", "abc", "phononbench",
    )  # fmt: skip
    assert row["id"] == "abc"


# ---------------------------------------------------------------- runs


def run(folder: Path, name: str, *arguments: str) -> hpcbench.Store:
    out = folder / name
    command = ["run", str(folder / "crystals"), "--model", "ase.calculators.emt:EMT", *QUICK]
    assert main([*command, "--out", str(out), *arguments]) == 0
    return hpcbench.open(out)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, hpcbench.Store]:
    """Two metals in two supercells: the first by itself, both by themselves, and one by the other.

    At the threshold, simple cubic copper is stable in the smaller supercell and unstable in the
    larger one. Aluminium is far from it.
    """
    folder = tmp_path_factory.mktemp("history")
    (folder / "crystals").mkdir()
    write(folder / "crystals" / "simple.cif", bulk("Cu", "sc", a=2.4))
    write(folder / "crystals" / "aluminium.cif", bulk("Al"))
    # Its lowest frequency on the path is -3.442 THz in the one and -3.489 in the other.
    (folder / "own.toml").write_text(
        '[[criteria]]\nname = "near"\nplace = "path"\nthreshold = -3.465\n'
    )
    # The length of the displacements is out of reach of the threshold.
    own = ["--criteria", str(folder / "own.toml"), "--criterion", "near"]
    own += ["--displacement", "0.002"]
    small = run(folder, "small.h5", "--supercell", "2", "2", "2", *own)
    large = run(folder, "large.h5", "--supercell", "3", "3", "3", *own)
    both = run(folder, "s.h5", "--supercell", "2", "2", "2", *own, "--check-margin", "0.05")
    return {"small": small, "large": large, "both": both}


def require_same(row: dict, other: dict) -> None:  # type: ignore[type-arg]
    for name in WORDS:
        assert row[name] == other[name], name
    for name in NUMBERS:
        np.testing.assert_allclose(row[name], other[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_row_is_one_computation_alone(stores: dict[str, hpcbench.Store]) -> None:
    """Both computations by themselves, in runs of their own, say what each row has to be."""
    both = stores["both"]
    key = both.find("simple")
    assert both.computations(key) == [f"{key}:first", key]
    row, first = both.row(key), both.row(f"{key}:first")
    require_same(row, stores["large"].row(key))
    require_same(first, stores["small"].row(key))
    assert (row["again"], row["parent"]) == ("larger", "")
    assert (first["again"], first["parent"]) == ("first", key)
    assert (first["verdict"], row["verdict"]) == ("stable", "unstable")
    other = both.find("aluminium")
    assert (both.computations(other), both.row(other)["again"]) == ([other], "")
    assert len(both) == len(both.table) == 2
    assert both.history.ids == [f"{key}:first"]
    assert len(both.beside) == len(both.where("natoms > 99").history) == 0
    assert both.unfinished_ids() == []


def test_what_is_read_is_what_decides(stores: dict[str, hpcbench.Store]) -> None:
    both, alone = stores["both"], stores["large"]
    key = both.find("simple")
    result, expected = both[key], alone[key]
    assert result.verdict == result.verdicts["near"] == "unstable"
    assert result.verdicts == expected.verdicts
    assert len(result.unstable_modes) == len(expected.unstable_modes) > 0
    for mode, other in zip(result.unstable_modes, expected.unstable_modes, strict=True):
        assert mode.frequency == pytest.approx(other.frequency, abs=1e-6)
        np.testing.assert_allclose(mode.qpoint, other.qpoint, atol=1e-9)
    # The gallery of the file itself, too.
    import h5py

    with h5py.File(both.path) as file:
        assert list(file["gallery"]) == sorted(both.ids)


def test_what_is_shown_is_what_decides(
    stores: dict[str, hpcbench.Store], capsys: pytest.CaptureFixture[str]
) -> None:
    both = stores["both"]
    key = both.find("simple")

    def shown(words: str) -> str:
        capsys.readouterr()
        assert main(["show", words, str(both.path)]) == 0
        return " ".join(capsys.readouterr().out.split())

    for words, alone, verdict in (
        ("simple", stores["large"], "unstable"),
        (f"{key}:first", stores["small"], "stable"),
    ):
        row, text = alone.row(key), shown(words)
        for place in ("path", "commensurate", "mesh"):
            assert f"lowest, {place} {row[f'min_frequency_{place}']:.4f} THz" in text
        assert f"verdict {verdict}" in text
        for criterion in CRITERIA:
            assert f"{criterion.name} {row[criterion.column]}" in text
    assert "this is what decides (next larger supercell)" in shown("simple")
    assert f"also stored {key}:first first computation: stable, lowest on the path" in shown(
        "simple"
    )
    assert "this is first computation" in shown("simple:first")
    assert f"also stored {key} what decides (next larger supercell): unstable" in shown(
        f"{key[:6]}:first"
    )
    assert "this is" not in shown("aluminium")
    with pytest.raises(UsageError, match=f"no 'larger' of {key}: there is {key}:first"):
        both.find("simple:larger")
    with pytest.raises(UsageError, match="nothing but the crystal itself"):
        both.find("aluminium:first")


def test_the_page_shows_what_decides(stores: dict[str, hpcbench.Store], tmp_path: Path) -> None:
    both, alone = stores["both"], stores["large"]
    key = both.find("simple")
    page = write_report(both, tmp_path / "r.html").read_text(encoding="utf-8")
    assert bands_svg(both.bands(key)) in page
    assert bands_svg(both.bands(f"{key}:first")) not in page
    np.testing.assert_allclose(
        np.concatenate(both.bands(key).frequencies),
        np.concatenate(alone.bands(key).frequencies),
        atol=1e-5,
    )
    # One table, of all criteria, and the same one as of the larger supercell alone.
    assert criteria_of_page(page) == criteria_of_page(
        write_report(alone, tmp_path / "alone.html").read_text(encoding="utf-8")
    )
    (generator,) = benchmark_json(both)["generators"]
    rate = generator["stable_of"]["determined"]
    assert (rate["count"], rate["of"]) == (1, 2)
    assert generator["stable_by_criterion"]["near"] == rate
    text = " ".join(page.split())
    assert "Of the crystals that are done, 50.0 % are stable by criterion <strong>near" in text
    assert "next larger supercell (1)." in text
    assert "1 verdict</a>: 1 from stable to unstable." in text
    small, large = (stores[name].row(key)["min_frequency_path"] for name in ("small", "large"))
    assert (
        f'<td class="stable">stable</td><td class="n">{small:.3f}</td>'
        f'<td class="unstable">unstable</td><td class="n">{large:.3f}</td>'
    ).replace(">-", ">−") in text


def criteria_of_page(page: str) -> str:
    """The table of criteria, which has their counts, shares and intervals."""
    return page.partition('<section id="criteria">')[2].partition("</section>")[0]


def test_what_is_exported_is_what_decides(
    stores: dict[str, hpcbench.Store], tmp_path: Path
) -> None:
    both = stores["both"]
    key = both.find("simple")

    def export(kind: str, out: str, *more: str) -> Path:
        path = tmp_path / out
        command = ["export", str(both.path), "--format", kind, "-o", str(path)]
        assert main([*command, *more]) == 0
        return path

    rows = list(csv.DictReader(export("csv", "t.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == both.ids
    (line,) = (row for row in rows if row["id"] == key)
    assert (line["verdict"], line["verdict_near"], line["again"]) == (
        "unstable",
        "unstable",
        "larger",
    )
    text = export("csv", "first.csv", "--id", "simple:first").read_text()
    (line,) = csv.DictReader(text.splitlines())
    assert (line["id"], line["verdict"]) == (f"{key}:first", "stable")
    # phonopy itself reads them, and computes what each row says.
    folders = export("phonopy", "p"), export("phonopy", "first", "--id", f"{key}:first")
    assert [path.name for path in folders[1].iterdir() if path.is_dir()] == [f"simple-{key}_first"]
    for folder, alone in zip(folders, (stores["large"], stores["small"]), strict=True):
        (place,) = folder.glob("simple-*")
        phonon = phonopy.load(
            place / "phonopy.yaml",
            force_constants_filename=place / "force_constants.hdf5",
            log_level=0,
        )
        phonon.run_mesh([4, 4, 4], with_eigenvectors=False)
        lowest = phonon.mesh.frequencies.min()
        assert lowest == pytest.approx(alone.row(key)["min_frequency_mesh"], abs=1e-5)
    labels = export("phononbench", "l") / "relaxed" / "gpu0_part0" / "Lable.txt"
    said = dict(line.split("\t") for line in labels.read_text().splitlines())
    assert said == {
        store["name"]: "Stable" if store["min_frequency_path"] >= -0.001 else "unStable"
        for store in (both.row(k) for k in both.ids)
    }


def test_other_commands_keep_both(
    stores: dict[str, hpcbench.Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = stores["both"]
    key = both.find("simple")
    assert main(["verify", str(both.path)]) == 0
    assert "2 done, and 1 more of the same crystals" in capsys.readouterr().out
    assert main(["merge", str(both.path), "-o", str(tmp_path / "m.h5")]) == 0
    other = ["reanalyse", str(both.path), "--out", str(tmp_path / "a.h5"), "--workers", "0"]
    assert main([*other, "--mesh", "5", "5", "5"]) == 0
    alone = ["reanalyse", str(stores["large"].path), "--out", str(tmp_path / "b.h5")]
    assert main([*alone, "--workers", "0", "--mesh", "5", "5", "5"]) == 0
    merged, analysed, expected = (
        hpcbench.open(tmp_path / name) for name in ("m.h5", "a.h5", "b.h5")
    )
    for store in (merged, analysed):
        assert store.computations(key) == [f"{key}:first", key]
        assert [store.row(k)["again"] for k in store.computations(key)] == ["first", "larger"]
    row, large = analysed.row(key), expected.row(key)
    assert row["verdict"] == row["verdict_near"] == large["verdict"]
    assert row["min_frequency_mesh"] == pytest.approx(large["min_frequency_mesh"], abs=1e-6)
    assert main(["diff", str(both.path), str(tmp_path / "m.h5")]) == 0
    # What decides is what is compared.
    capsys.readouterr()
    assert main(["diff", str(stores["small"].path), str(both.path), "--tolerance", "1e-4"]) == 1
    assert "1 with another verdict" in capsys.readouterr().out


def test_a_part_of_a_store_has_its_own_history(stores: dict[str, hpcbench.Store]) -> None:
    both = stores["both"]
    key = both.find("simple")
    assert both[[key]].history.ids == [f"{key}:first"]
    assert both[[both.find("aluminium")]].history.ids == []
    assert both[[f"{key}:first"]].ids == [f"{key}:first"]
    found = history_of(both)
    assert found is not None
    assert (found.count, found.transitions) == (1, (("stable", "unstable", 1),))
    assert history_of(stores["small"]) is None


def test_a_history_without_its_crystal_is_computed_again(
    stores: dict[str, hpcbench.Store], tmp_path: Path
) -> None:
    """As a repair may leave it: the history is no result."""
    from hpcbench.store.table_reader import TableReader
    from hpcbench.store.table_writer import TableWriter

    both = stores["both"]
    shutil.copytree(f"{both.path}.run", tmp_path / "s.h5.run", symlinks=True)
    with (
        TableReader(both.path) as reader,
        TableWriter(tmp_path / "s.h5", reader.schema, reader.settings) as writer,
    ):
        writer.append(
            row for row in reader.rows(range(len(reader))) if row["id"] != both.find("simple")
        )
    left = hpcbench.open(tmp_path / "s.h5")
    assert (len(left), len(left.history), len(left.unfinished_ids())) == (1, 1, 1)
    key = both.find("simple")
    assert left.versions(key) == [f"{key}:first"]
    assert main(["show", f"{key}:first", str(left.path)]) == 0


# ---------------------------------------------------------------- undetermined


def test_what_noise_could_change_is_undetermined_by_every_criterion(tmp_path: Path) -> None:
    """Verdict and column are one; the frequencies still give the label of the scripts."""
    (tmp_path / "crystals").mkdir()
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.02, seed=2)
    write(tmp_path / "crystals" / "Cu.cif", atoms)
    (tmp_path / "own.toml").write_text(
        '[[criteria]]\nname = "near"\nplace = "mesh"\nthreshold = 0.0\n'
        '[[criteria]]\nname = "far"\nplace = "mesh"\nthreshold = -5.0\n'
    )
    own = ["--relax", "none", "--criteria", str(tmp_path / "own.toml"), "--criterion", "far"]
    first = run(tmp_path, "first.h5", *own)
    (row,) = first.rows()
    threshold = row["min_frequency_mesh"]
    (tmp_path / "own.toml").write_text(
        (tmp_path / "own.toml").read_text().replace("= 0.0", f"= {threshold + 1e-9:.12f}")
    )
    store = run(tmp_path, "s.h5", *own)
    (row,) = store.rows()
    assert row["within_noise"].split(", ") == ["near"]
    assert (row["verdict"], row["verdict_far"], row["verdict_near"]) == (
        "stable", "stable", "undetermined",
    )  # fmt: skip
    assert label_of(row) == ("Stable" if row["min_frequency_path"] >= -0.001 else "unStable")
    # In no rate of that criterion, and in those of others.
    page = write_report(store, tmp_path / "r.html").read_text(encoding="utf-8")
    lines = {
        line.partition("</td>")[0].rpartition(">")[2]: line
        for line in criteria_of_page(page).splitlines()
        if line.startswith("<tr><td")
    }
    cells = [x.partition("<")[0] for x in lines["near"].split('<td class="n">')[2:]]
    assert cells == ["0", "1", "–", "–", "–"]
