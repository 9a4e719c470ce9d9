"""Errors against references: published ones reproduced, others' statistics, bad input."""

from __future__ import annotations

import csv
import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
from accuracy_stores import DFT, MACE, SMALL, failed_row, make_store, write_store
from phonopy import Phonopy

from hpcbench.analysis.accuracy.comparison import compare
from hpcbench.analysis.accuracy.confusion import confusion
from hpcbench.analysis.accuracy.frequencies import frequency_errors, mae_of
from hpcbench.analysis.accuracy.quantities import (
    ANYWHERE,
    ENERGY,
    HIGHEST,
    QUANTITIES,
    VOLUME,
    errors_of,
)
from hpcbench.analysis.accuracy.reading import read_compared
from hpcbench.analysis.accuracy.spectra import ALL, ZONE
from hpcbench.analysis.accuracy.values import LEE_XIA, LOEW
from hpcbench.analysis.accuracy.zone import zone_errors
from hpcbench.analysis.published_potentials import published_lee_xia, published_loew
from hpcbench.cli import main
from hpcbench.interop.calculation import Beside, read_calculation
from hpcbench.store.reader import Store

pytestmark = [pytest.mark.reference, pytest.mark.slow]

# The published benchmark (github.com/JaGeo/mace-mp-03b-phonon-benchmark) has 16 of the sets here.
PUBLISHED = ("mp-1000", "mp-1519", "mp-1103235")
FURTHER = (
    "mp-2612", "mp-19717", "mp-14017", "mp-1147715", "mp-23116", "mp-2160", "mp-27948", "mp-27163",
    "mp-1592", "mp-1224350", "mp-16922", "mp-20123",
)  # fmt: skip
THERMAL = ("free_energy", "entropy", "heat_capacity")


@pytest.fixture(scope="module")
def published(reference_data: Path) -> dict[str, dict[str, str]]:
    with (reference_data / DFT / "mace-mp-0b3-published.csv").open() as stream:
        return {row["material"]: row for row in csv.DictReader(stream)}


def as_published(path: Path) -> Phonopy:
    """Force constants from the file's forces, not symmetrised, as the published scripts do."""
    calculation = read_calculation(path, Beside(), "auto", 1e-4, with_forces=True)
    calculation.phonon.dataset = calculation.dataset
    calculation.phonon.produce_force_constants(show_drift=False)
    return calculation.phonon


def both_sides(reference_data: Path, name: str) -> tuple[Phonopy, Phonopy]:
    with warnings.catch_warnings():
        # phonopy says that its defaults have changed.
        warnings.simplefilter("ignore")
        potential, reference = (
            as_published(reference_data / folder / f"{name}.yaml.xz") for folder in (MACE, DFT)
        )
    return potential, reference


@pytest.mark.parametrize(
    "name", [*PUBLISHED, *(pytest.param(name, marks=pytest.mark.nightly) for name in FURTHER)]
)
def test_published_errors_are_reproduced(
    name: str, reference_data: Path, published: dict[str, dict[str, str]]
) -> None:
    """MAE, RMSE and their kin over the Brillouin zone, and F, S, C_V of both, to all digits."""
    potential, reference = both_sides(reference_data, name)
    found, row = zone_errors(potential, reference), published[name]
    for ours, theirs in (
        (found.mae, "phonon_mae"),
        (found.rmse, "phonon_rmse"),
        (found.scaled_rmse, "phonon_scaled_rmse"),
        # Their script scales the potential's frequencies in place before it takes this one.
        (found.relative_rmse * found.scaled_rmse / found.rmse, "phonon_rrmse"),
    ):
        assert ours == pytest.approx(float(row[theirs]), abs=1e-10), theirs
    for side, prefix in ((found.potential, ""), (found.reference, "benchmark_")):
        for quantity in THERMAL:
            (value,) = getattr(side, quantity)
            assert value == pytest.approx(float(row[prefix + quantity]), abs=1e-9), quantity
    if name == "mp-1000":
        assert found.mae == pytest.approx(0.17845, abs=5e-6)


def test_the_published_error_that_differs_is_of_a_mesh_without_the_symmetry(
    reference_data: Path, published: dict[str, dict[str, str]]
) -> None:
    """The half-shifted mesh of hexagonal mp-1205316 was reduced by rotations that do not keep it.

    phonopy 2.27 did so; phonopy since 4 refuses, and takes all points.
    """
    name = "mp-1205316"
    potential, reference = both_sides(reference_data, name)
    expected = float(published[name]["phonon_mae"])
    assert zone_errors(potential, reference).mae == pytest.approx(expected, abs=5e-4)
    mesh = np.array([20, 20, 20])
    mapping, grid = spglib.get_stabilized_reciprocal_mesh(
        mesh, potential.primitive_symmetry.pointgroup_operations, is_shift=[1, 1, 1]
    )
    points, weights = np.unique(mapping, return_counts=True)
    qpoints = (grid[points] + 0.5) / mesh
    ours, theirs = (
        np.sort(side.run_qpoints(qpoints).frequencies, axis=1) for side in (potential, reference)
    )
    mae = np.average(np.abs(ours - theirs).mean(axis=1), weights=weights)
    assert mae == pytest.approx(expected, abs=1e-10)


@pytest.fixture(scope="module")
def store(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """MACE-MP-0b3 against DFT, of materials of two atoms; mp-2612 is unstable by both."""
    out = tmp_path_factory.mktemp("accuracy") / "mace.h5"
    return make_store(out, reference_data / MACE, reference_data / DFT, SMALL, mesh=(20, 20, 20))


def test_thermal_errors_are_the_published_ones(
    store: Store, published: dict[str, dict[str, str]]
) -> None:
    """From a store, whose force constants are symmetrised: the differences stay below 1e-3."""
    compared = read_compared(store)
    for quantity in QUANTITIES:
        column = quantity.key.removesuffix("_300K")
        if column not in THERMAL:
            continue
        found = errors_of(compared, quantity)
        for pair, ours, theirs in zip(found.pairs, found.potential, found.reference, strict=True):
            row = published[pair.name]
            if pair.name == "mp-2612":
                # Unstable: the cut-off of 0.1 THz leaves out some of its softest real modes.
                continue
            assert ours == pytest.approx(float(row[column]), abs=2e-3), (pair.name, column)
            assert theirs == pytest.approx(float(row[f"benchmark_{column}"]), abs=2e-3)


def test_frequency_errors_are_those_of_scikit_learn(store: Store) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    ours, theirs = [], []
    for key in store.ids:
        qpoints = store.row(f"{key}:reference")["band_qpoints"]
        frequencies = store.phonopy(key).run_qpoints(qpoints).frequencies
        ours.append(np.sort(frequencies, axis=1).ravel())
        theirs.append(store.row(f"{key}:reference")["band_frequencies"])
    potential, reference = np.concatenate(ours), np.concatenate(theirs)
    compared = read_compared(store)
    assert not any(pair.problem for pair in compared.pairs)
    found = frequency_errors(compared.pairs, ALL)
    assert found.frequencies == len(reference)
    mae = metrics.mean_absolute_error(reference, potential)
    assert found.mae.value == pytest.approx(mae, abs=1e-6)
    assert found.r2.value == pytest.approx(metrics.r2_score(reference, potential), abs=1e-6)
    assert found.rmse.value == pytest.approx(
        metrics.root_mean_squared_error(reference, potential), abs=1e-6
    )
    slope = np.linalg.lstsq(reference[:, None], potential, rcond=None)[0][0]
    assert found.slope.value == pytest.approx(slope, abs=1e-6)
    assert found.mae.low < found.mae.value < found.mae.high


def test_errors_over_the_zone_are_the_published_ones(
    store: Store, published: dict[str, dict[str, str]]
) -> None:
    """But for what symmetrised force constants change."""
    compared = read_compared(store, mesh=(20, 20, 20))
    for pair in compared.pairs:
        expected = float(published[pair.name]["phonon_mae"])
        assert mae_of(pair, ZONE) == pytest.approx(expected, abs=2e-5), pair.name


def test_highest_frequency_is_at_commensurate_q(store: Store) -> None:
    """As Loew et al. take it, in K; the highest anywhere may be between these q."""
    found = errors_of(read_compared(store), HIGHEST)
    for pair, kelvin in zip(found.pairs, found.reference, strict=True):
        row = store.row(f"{pair.id}:reference")
        phonon = store.phonopy(f"{pair.id}:reference")
        highest = phonon.run_qpoints(row["commensurate_qpoints"]).frequencies.max()
        assert kelvin == pytest.approx(47.992 * highest, abs=1e-3)
        assert kelvin <= 47.992 * row["max_frequency"] + 1e-3


def test_stability_is_judged_by_the_papers_rules(store: Store) -> None:
    compared = read_compared(store)
    assert {pair.name: pair.reference.stable[LOEW] for pair in compared.pairs} == {
        "mp-1000": True, "mp-1519": True, "mp-2612": False, "mp-19717": True,
    }  # fmt: skip
    found = confusion(compared, LOEW)
    assert (found.true_stable, found.true_unstable, found.total) == (3, 1, 4)
    assert found.accuracy.share == 1.0
    low = replace(compared.pairs[0].potential, stable={LOEW: False, LEE_XIA: None})
    compared.pairs[0] = replace(compared.pairs[0], potential=low)
    assert confusion(compared, LOEW).false_unstable == 1
    assert confusion(compared, LEE_XIA).reasons == {"not known of the potential": 1}


def rows_of(store: Store) -> dict[str, dict[str, Any]]:
    """All rows by their ids, the references' too."""
    return {key: store.row(key) for one in store.ids for key in store.versions(one)}


def test_what_cannot_be_compared_is_in_no_average(store: Store, tmp_path: Path) -> None:
    """One failed, one without a reference, one with a failed one; energies of another zero."""
    rows = rows_of(store)
    first, second, third, fourth = store.ids
    other = {**rows[first], "id": "0123abcd"}
    rows["other"] = failed_row(other, "reference: no forces: neither in the file nor beside it")
    rows[first] = failed_row(rows[first], "not converged: forces of 0.2 eV/A")
    del rows[f"{second}:reference"]
    rows[f"{third}:reference"] |= {"status": "failed", "reason": "no forces: none in the file"}
    rows[fourth] |= {"energy": -7.0}
    rows[f"{fourth}:reference"] |= {"energy": 20.0}
    compared = read_compared(write_store(tmp_path / "bad.h5", list(rows.values()), store.settings))
    assert [pair.id for pair in compared.pairs] == [fourth]
    assert [(one.id, one.kind) for one in compared.left_out] == [
        (first, "failed: not converged"),
        (second, "no reference"),
        (third, "no reference: it has no phonons"),
        ("0123abcd", "no reference: no forces"),
    ]
    # It is not the potential that has no phonons of the last one.
    assert (compared.failed.count, compared.failed.of) == (1, 4)
    energy = errors_of(compared, ENERGY)
    assert not len(energy.errors)
    assert energy.reasons == {"another zero of energy": 1}
    assert math.isnan(energy.mae.value)
    assert len(errors_of(compared, VOLUME).errors) == 1


def test_an_undetermined_verdict_is_no_answer(store: Store, tmp_path: Path) -> None:
    rows = rows_of(store)
    rows[store.ids[0]] |= {"verdict_loew": "undetermined"}
    found = confusion(
        read_compared(write_store(tmp_path / "u.h5", list(rows.values()), store.settings)), LOEW
    )
    assert found.reasons == {"not known of the potential": 1}


def test_properties_of_other_primitive_cells_are_in_no_average(
    store: Store, tmp_path: Path
) -> None:
    rows = rows_of(store)
    key = f"{store.ids[0]}:reference"
    rows[key] |= {"p2s_map": np.repeat(rows[key]["p2s_map"], 2)}
    compared = read_compared(write_store(tmp_path / "p.h5", list(rows.values()), store.settings))
    by_key = {quantity.key: quantity for quantity in QUANTITIES}
    entropy = errors_of(compared, by_key["entropy_300K"])
    assert entropy.reasons == {"the primitive cells are not the same": 1}
    assert len(errors_of(compared, by_key["A_vib_300K"]).errors) == len(store.ids)


def test_a_volume_that_was_not_relaxed_is_no_result(store: Store, tmp_path: Path) -> None:
    settings = {**store.settings, "relax": "positions"}
    other = write_store(tmp_path / "v.h5", list(rows_of(store).values()), settings)
    volume = errors_of(read_compared(other), VOLUME)
    assert volume.reasons == {"the cell was not relaxed": len(store.ids)}


def test_values_that_are_not_finite_are_in_no_average(store: Store, tmp_path: Path) -> None:
    rows = rows_of(store)
    first, second, third, _ = store.ids
    rows[f"{first}:reference"] |= {"energy": math.nan, "entropy": np.full(6, np.nan)}
    bands = np.array(rows[f"{second}:reference"]["band_frequencies"])
    bands[3] = np.nan
    rows[f"{second}:reference"] |= {"band_frequencies": bands}
    rows[third] |= {"primitive_matrix": np.eye(3)}
    compared = read_compared(write_store(tmp_path / "nan.h5", list(rows.values()), store.settings))
    problems = {pair.id: pair.problem for pair in compared.pairs if pair.problem}
    assert problems == {
        second: "not all frequencies are finite",
        third: "the primitive cells are not the same",
    }
    assert frequency_errors(compared.pairs, ALL).mae.count == 2
    entropy = next(q for q in QUANTITIES if q.key == "entropy_300K")
    assert errors_of(compared, entropy).reasons == {"not known of the reference": 1}


def test_a_label_is_compared_in_what_it_says(store: Store, tmp_path: Path) -> None:
    rows = {key: row for key, row in rows_of(store).items() if ":" not in key}
    for row in rows.values():
        columns = {"phonondb_min_freq_thz": -0.7, "max_freq_thz": 5.0, "heat_capacity": 197.0}
        row["origins"] = json.dumps([["labels.csv", 0, "", "", columns]])
    compared = read_compared(write_store(tmp_path / "l.h5", list(rows.values()), store.settings))
    assert len(compared.pairs) == 4
    np.testing.assert_allclose(errors_of(compared, ANYWHERE).reference, 5 * 47.992)
    # At which q the label's is nobody knows.
    assert errors_of(compared, HIGHEST).reasons == {"not known of the reference": 4}
    heat = next(q for q in QUANTITIES if q.key == "heat_capacity_300K")
    # Of 8 atoms as given, 2 in the primitive cell: 3 R for each is 24.9, of which the unstable one
    # lacks the imaginary modes.
    np.testing.assert_allclose(errors_of(compared, heat).reference, 197.0 / 4)
    np.testing.assert_allclose(errors_of(compared, heat).potential, 48.0, atol=2.5)
    assert confusion(compared, LEE_XIA).of_unstable.of == 4
    assert confusion(compared, LOEW).reasons == {"not known of the reference": 4}


def test_two_potentials_are_compared_on_the_crystals_of_both(store: Store) -> None:
    one = read_compared(store, "one")
    other = read_compared(store, "other")
    del other.pairs[0]
    for place, pair in enumerate(other.pairs):
        other.pairs[place] = replace(pair, potential=pair.reference)
    found = compare(one, other)
    assert found.materials == 3
    volume = next(error for error in found.errors if error.key == "volume")
    errors = errors_of(one, VOLUME)
    assert volume.first == pytest.approx(np.abs(errors.errors[1:]).mean())
    assert volume.second == 0.0
    assert volume.difference.chance_smaller == 0.0


def test_published_numbers_are_those_of_the_papers(reference_data: Path) -> None:
    golden = json.loads((reference_data / "golden" / "loew.json").read_text())
    keys = {
        "table1": ("failed", "energy", "volume"),
        "table2_MAE": (
            "highest_frequency", "entropy_300K", "free_energy_300K", "heat_capacity_300K"
        ),
        "table3_confusion_percent": (
            "true_stable", "false_unstable", "true_unstable", "false_stable"
        ),
    }  # fmt: skip
    for row in published_loew():
        for table, names in keys.items():
            assert [row.values.get(name) for name in names] == golden[table][row.name], table
    golden = json.loads((reference_data / "golden" / "lee-xia.json").read_text())
    paper = published_lee_xia()
    assert paper.mae["frequencies"] == golden["frequency_MAE_THz"]
    assert paper.r2["frequencies"] == golden["frequency_R2"]
    for name, unit in (
        ("A_vib", "F_vib_MAE_meV_per_atom"),
        ("C_V", "C_V_MAE_J_per_mol_K"),
        ("S_vib", "S_vib_MAE_J_per_mol_K"),
    ):
        assert [paper.mae[f"{name}_{t}K"] for t in (300, 1000)] == list(golden[unit].values())
    assert (paper.accuracy, paper.true_negative, paper.false_positive, paper.false_negative) == (
        golden["stability_accuracy_percent"],
        golden["true_negative_percent"],
        golden["false_positive_percent"],
        golden["false_negative_percent"],
    )
    counts = golden["polymorphs"]
    assert (paper.compositions, paper.polymorphs) == (counts["types"], counts["polymorphs"])


def test_the_command_prints_and_writes_every_number(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two stores of one potential; also a second time, over what it wrote."""
    numbers, page, figures = (tmp_path / name for name in ("a.json", "a.html", "figures"))
    other = shutil.copy(store.path, tmp_path)
    words = ["accuracy", str(store.path), str(other), "--json", str(numbers)]
    words += ["-o", str(page), "--figures", str(figures)]
    assert main(words) == 0
    said = capsys.readouterr().out
    found = json.loads(numbers.read_text())
    assert found["format"] == "hpcbench-accuracy"
    one = found["potentials"][0]
    assert len(one["materials"]) == one["crystals"] == 4
    assert one["errors"]["energy"]["left_out"] == {"not known of the reference": 4}
    assert found["comparisons"][0]["materials"] == 4
    mae = one["frequencies"]["path"]["mae"]["value"]
    compared = read_compared(store)
    weights = [pair.frequencies[ALL][0] for pair in compared.pairs]
    errors = [mae_of(pair, ALL) for pair in compared.pairs]
    assert mae == pytest.approx(np.average(errors, weights=weights))
    text = page.read_text()
    for place in (said, text):
        assert f"{mae:.3f}" in place
        assert "MatterSim (published)" in place
    # The bands of both stores' four crystals, and the figures.
    written = {file.name for file in figures.iterdir() if file.suffix == ".svg"}
    assert text.count("<svg") == 2 * 4 + len(written)
    assert {"loew-1-crystals.svg", "loew-4-phonons.svg", "lee-xia-4a-frequencies-2.svg"} <= written
    data = np.genfromtxt(figures / "lee-xia-4a-frequencies-1.csv", delimiter=",", skip_header=1)
    assert data[:, 2].sum() == sum(weights)
    assert main(words) == 0
    assert main([words[0], str(other), str(other)]) == 2


def test_a_page_of_labels_alone_has_what_they_allow(store: Store, tmp_path: Path) -> None:
    """One crystal with a label: no frequencies to compare, and no interval."""
    row = {**store.row(store.ids[0])}
    row["origins"] = json.dumps([["labels.csv", 0, "", "", {"max_frequency": 4.0}]])
    path = tmp_path / "label.h5"
    write_store(path, [row], store.settings)
    assert main(["accuracy", str(path)]) == 0
    text = (tmp_path / "label.h5.accuracy.html").read_text()
    assert "the reference has single values only" in text
    assert "loew-5-highest" in text
    assert "lee-xia-4a" not in text


def test_polymorphs_of_any_store_are_ordered(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without references: the same crystal, stretched, with a little more energy."""
    row = {**store.row(store.ids[0]), "energy": -10.0}
    other = {**row, "id": "c0ffee", "name": "stretched", "energy": -9.9}
    other["relaxed_cell"] = 1.1 * row["relaxed_cell"]
    other["free_energy"] = row["free_energy"] - 10.0
    path = tmp_path / "two.h5"
    write_store(path, [row, other], store.settings)
    assert main(["accuracy", str(path), "--json", str(tmp_path / "two.json")]) == 0
    (found,) = json.loads((tmp_path / "two.json").read_text())["potentials"][0]["polymorphs"]
    assert found["composition"] == "BaTe"
    assert found["H_by"] == "potential"
    # 0.1 eV of 8 atoms; 10 kJ/mol of 2 atoms is more.
    assert found["H_meV_per_atom"] == pytest.approx([0.0, 12.5])
    assert [one["order"][0] for one in found["at"]] == ["c0ffee"] * 3
    assert "stretched +0.0" in capsys.readouterr().out


def test_a_store_without_phonons_is_refused(store: Store, tmp_path: Path) -> None:
    rows = [failed_row(store.row(key), "cell: none") for key in store.ids]
    path = tmp_path / "nothing.h5"
    write_store(path, rows, store.settings)
    assert main(["accuracy", str(path)]) == 2
