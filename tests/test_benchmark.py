"""The benchmark of generators: rates, intervals, ranks, the published numbers, tables, figures."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from ase.build import bulk
from ase.io import write
from pymatgen.symmetry.groups import SpaceGroup
from scipy.stats import binomtest, norm

import hpcbench
from hpcbench.analysis.breakdown import (
    by_crystal_system,
    by_number_of_elements,
    convergence,
    crystal_system,
    elements_in_stable,
    elements_of,
)
from hpcbench.analysis.generators import Outcome, outcomes_of, ranked_outcomes
from hpcbench.analysis.published import (
    published_crystal_systems,
    published_outcomes,
    published_sizes,
    published_speeds,
)
from hpcbench.analysis.rates import Rate, rank, size_for
from hpcbench.cli import main
from hpcbench.origin import Generator, Origin, origins_to_json
from hpcbench.outputs import appended
from hpcbench.report.benchmark import benchmark_of
from hpcbench.report.benchmark_figures import benchmark_figures
from hpcbench.report.benchmark_json import benchmark_json
from hpcbench.report.figure import save_figures

DOCS = Path(__file__).parents[1] / "docs"

# ---------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("count", "of"), [(0, 1), (0, 20), (7, 7), (3, 10), (58, 1951), (4469, 10902)]
)
def test_intervals_are_those_of_scipy(count: int, of: int) -> None:
    expected = binomtest(count, of).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(Rate(count, of).interval, expected, atol=1e-12)


def test_nothing_has_no_rate() -> None:
    assert math.isnan(Rate(0, 0).share) and all(map(math.isnan, Rate(0, 0).interval))


@pytest.mark.parametrize(("share", "half"), [(0.3, 0.01), (0.02, 0.01), (0.5, 0.05), (0.0, 0.02)])
def test_the_size_for_an_interval_is_the_smallest(share: float, half: float) -> None:
    size = size_for(share, half)

    def half_width(n: int) -> float:
        z = norm.ppf(0.975)
        return float(z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))

    assert half_width(size) <= half < half_width(size - 1)


def test_ranks_and_their_chances() -> None:
    rates = [Rate(300, 1000), Rate(410, 1000), Rate(0, 0), Rate(395, 1000), Rate(100, 1000)]
    found = rank(rates)
    assert found.order == [1, 3, 0, 4, 2]
    # Two binomial shares: normal in good approximation.
    spread = math.sqrt(0.41 * 0.59 / 1000 + 0.395 * 0.605 / 1000)
    assert found.above_next[0] == pytest.approx(norm.cdf(0.015 / spread), abs=0.015)
    assert found.above_next[1] > 0.999 and found.above_next[2] > 0.999
    assert math.isnan(found.above_next[3]) and math.isnan(found.above_next[4])
    assert found.all_right == pytest.approx(found.above_next[0], abs=0.02)
    assert found.ranks == [(1, 2), (1, 2), (3, 3), (4, 4), (5, 5)]
    # The same every time.
    assert rank(rates) == found or str(rank(rates)) == str(found)


def test_equal_rates_are_as_likely_in_either_order() -> None:
    found = rank([Rate(20, 100), Rate(20, 100)])
    assert found.above_next[0] == pytest.approx(0.5, abs=0.02)
    assert found.ranks == [(1, 2), (1, 2)]
    assert found.all_right == pytest.approx(found.above_next[0])
    sure = rank([Rate(7, 7), Rate(5, 5)])
    assert sure.above_next[0] == sure.all_right == 0.5
    assert rank([]).order == [] and rank([Rate(1, 2)]).all_right == 1.0


# ---------------------------------------------------------------- published numbers


def test_the_published_rates_follow_from_the_published_counts() -> None:
    """In percent, as the paper's text and Figure 1 and 3a have them."""
    rates = {row.generator.label: 100 * row.rate.share for row in published_outcomes()}
    for label, said in {
        "MatterGen, Alex-20": 41.0,
        "InvDesFlow-AL, Alex-20": 38.4,
        "CrystalFormer, Alex-20": 34.4,
        "CrystalFlow, MP-20": 16.7,
        "MatterGen, band gap 0.5 eV": 23.5,
        "MatterGen, band gap 1.5 eV": 15.3,
        "MatterGen, band gap 2.5 eV": 13.3,
        "MatterGen, band gap 3.5 eV": 13.3,
        "MatterGen, band gap 4.5 eV": 11.6,
    }.items():
        assert rates[label] == pytest.approx(said, abs=0.05), label
    own = [row for row in published_outcomes() if not row.drawn_from]
    done, stable = (sum(getattr(row, name) for row in own) for name in ("done", "stable"))
    # The abstract: 28,119 of 108,843, 25.83 %.
    assert (done, stable) == (108_843, 28_119)
    assert 100 * stable / done == pytest.approx(25.83, abs=0.005)
    by_gap = [row for row in own if row.generator.condition]
    assert sum(row.done for row in by_gap) == 33_210


def test_published_numbers_are_those_of_the_paper(reference_data: Path) -> None:
    golden = json.loads((reference_data / "golden" / "phononbench.json").read_text())
    ours = {
        (row.generator.name, row.generator.training_set.replace("-", "")): row
        for row in published_outcomes()
        if not row.generator.condition
    }
    for theirs in golden["table3"]:
        row = ours.pop((theirs["model"], theirs["training_set"]))
        found = (row.done, row.stable, row.suitable, row.unique, row.generated)
        names = ("relaxed", "stable", "input_success", "unique", "generated")
        assert found == tuple(theirs[name] for name in names)
        expected = binomtest(theirs["stable"], theirs["relaxed"])
        np.testing.assert_allclose(row.rate.share, expected.statistic)
        np.testing.assert_allclose(row.rate.interval, expected.proportion_ci(method="wilson"))
    assert not ours
    gaps = {row.generator.condition: row for row in published_outcomes() if row.generator.condition}
    for theirs in golden["table4_band_gap_eV"]:
        row = gaps.pop(f"band gap {theirs['band_gap']} eV")
        assert (row.done, row.stable, row.generated) == tuple(
            theirs[name] for name in ("relaxed", "stable", "generated")
        )
    assert not gaps
    speeds = [(s.name, s.generated, s.hours, s.speed, s.equivalent) for s in published_speeds()]
    keys = ("model", "items", "hours", "items_per_min", "equivalent_at_batch_200")
    assert speeds == [tuple(t[k] for k in keys) for t in golden["table1_generation_speed"]]
    assert {s.name: s.parameters for s in published_sizes()} == golden["table2_parameters_million"]
    systems = golden["figure2a_percent_stable_by_crystal_system"]
    assert published_crystal_systems() == systems


def test_labels_that_others_published_give_the_share_that_they_published(
    reference_data: Path,
) -> None:
    """1,100 DFT labels: 42 % have a frequency below -0.1 THz."""
    table = pandas.read_csv(reference_data / "labels" / "mp-dft-phonon-labels.csv.gz")
    (column,) = [c for c in table.columns if "min" in c.lower() and "freq" in c.lower()] or [""]
    rate = Rate(int((table[column] < -0.1).sum()), len(table))
    assert rate.of == 1100
    assert round(100 * rate.share) == 42
    assert rate.interval == pytest.approx(
        tuple(binomtest(rate.count, rate.of).proportion_ci(method="wilson")), abs=1e-12
    )


def test_speeds_are_reckoned_as_in_the_paper() -> None:
    """113.5 a minute at a batch of 500 count as 45.4 at one of 200."""
    one = outcome(Generator("DiffCSP", hours=16000 / 113.5 / 60, generated=16000, batch_size=500))
    assert one.speed == pytest.approx(113.5)
    assert one.equivalent_speed == pytest.approx(45.4)
    assert outcome(Generator("DiffCSP")).speed is None
    assert outcome(Generator("DiffCSP", hours=1.0)).equivalent_speed is None
    # Without a number, the entries of the files.
    assert outcome(Generator("DiffCSP", hours=1.0), generated=120).speed == pytest.approx(2.0)


def outcome(generator: Generator, **numbers: Any) -> Outcome:
    names = ("generated", "readable", "unique", "sampled", "suitable", "done", "stable",
             "undetermined")  # fmt: skip
    counts = {name: numbers.get(name, 0) for name in names}
    return Outcome(generator, **counts, by_criterion={}, novel=None, stable_and_novel=None,
                   near_hull=None, complete=True, too_large=0, seconds=0.0, mended={},
                   reasons={}, ids={})  # fmt: skip


# ---------------------------------------------------------------- counting

A, B = Generator("A", "MP-20"), Generator("B", hours=2.0, batch_size=100)


def row(key: str, status: str, verdict: str = "", *origins: Origin, reason: str = "",
        formula: str = "NaCl", group: int = 225) -> dict[str, Any]:  # fmt: skip
    return {
        "id": key, "name": key, "origins": origins_to_json(origins), "status": status,
        "reason": reason, "verdict": verdict, "verdict_loew": verdict, "formula": formula,
        "spacegroup_number": group, "min_frequency_path": 0.0 if verdict == "stable" else -1.0,
    }  # fmt: skip


def known(text: str, *more: tuple[str, Any]) -> dict[str, Any]:
    return {"columns": (*more, ("novelty", text))}


TABLE = pandas.DataFrame(
    [
        # Written by both, twice by A.
        row("1", "done", "stable", Origin("a", 0, A, **known("novel", ("e_hull", 0.05))),
            Origin("a", 1, A, **known("novel", ("e_hull", 0.05))), Origin("b", 0, B)),
        row("2", "done", "unstable", Origin("a", 2, A, **known("novel")), formula="NaCl2", group=1),
        row("3", "done", "stable", Origin("a", 3, A, **known("known: x")),
            Origin("b", 1, B, columns=(("mended", "operators of P4"),)), formula="Cu", group=194),
        row("4", "done", "stable", Origin("a", 4, A, **known("novel", ("e_hull", 0.2))),
            formula="TiO2", group=136),
        row("5", "set aside", "", Origin("a", 5, A, "duplicate: of 1"), reason="duplicate: of 1"),
        row("6", "set aside", "", Origin("a", 6, A, "not sampled: seed 0"), reason="not sampled"),
        row("7", "failed", "", Origin("a", 7, A), reason="overlap: too close"),
        row("8", "failed", "", Origin("a", 8, A), reason="not converged: 500 steps"),
        row("x9", "unreadable", "", Origin("a", 9, A), reason="syntax: junk"),
        # A duplicate of A's, but not of B's.
        row("10", "done", "undetermined", Origin("a", 10, A, "duplicate: of 2"), Origin("b", 2, B)),
    ]
)  # fmt: skip


def test_what_became_of_what_a_generator_wrote() -> None:
    a, b = outcomes_of(TABLE)
    assert (a.generator, b.generator) == (A, B)
    assert (a.generated, a.readable, a.unique, a.sampled) == (11, 10, 7, 6)
    assert (a.suitable, a.done, a.stable, a.undetermined) == (5, 4, 3, 0)
    assert (b.generated, b.readable, b.unique, b.sampled) == (3, 3, 3, 3)
    assert (b.suitable, b.done, b.stable, b.undetermined) == (3, 3, 2, 1)
    assert a.rates == {"determined": Rate(3, 4), "suitable": Rate(3, 5), "sampled": Rate(3, 6)}
    # What is undetermined is in neither number of a rate.
    assert b.rates == {name: Rate(2, 2) for name in a.rates}
    assert (b.determined, b.by_criterion) == (2, {"verdict_loew": Rate(2, 2)})
    assert a.reasons == {"overlap": 1, "not converged": 1, "syntax": 1}
    assert (a.mended, b.mended) == ({}, {"operators": 1})
    assert a.by_criterion == {"verdict_loew": Rate(3, 4)}
    # Each number can be followed to its crystals.
    assert a.ids["unique"] == ["1", "2", "3", "4", "6", "7", "8"]
    assert a.ids["suitable"] == ["1", "2", "3", "4", "8"]
    assert (a.ids["done"], a.ids["stable"]) == (["1", "2", "3", "4"], ["1", "3", "4"])
    assert (b.ids["done"], b.ids["determined"]) == (["1", "3", "10"], ["1", "3"])
    assert (a.novel, a.stable_and_novel, a.near_hull) == (3, 2, 1)
    assert (b.novel, b.stable_and_novel, b.near_hull) == (None, None, None)
    # 2 of 6 sampled ones stand for as many of the 7 unique ones of 11 entries.
    assert a.of_generated(2) == pytest.approx(2 / 6 * 7 / 11)
    assert b.speed == pytest.approx(3 / 120)
    assert math.isnan(outcomes_of(TABLE, complete=False)[0].of_generated(2))
    # A sample of small crystals says nothing of the others.
    text = TABLE["origins"].str.replace("not sampled: seed 0", "not sampled: more than 8 atoms")
    assert math.isnan(outcomes_of(TABLE.assign(origins=text))[0].of_generated(2))
    assert [o.generator for o in ranked_outcomes(TABLE)] == [B, A]


def test_who_is_not_named_has_no_benchmark() -> None:
    nobody = TABLE.assign(origins=origins_to_json([Origin("a")]))
    assert benchmark_of(nobody, []) is None
    assert [o.generator for o in outcomes_of(nobody)] == [Generator("")]
    assert benchmark_of(TABLE.iloc[:0], []) is None


def test_crystal_systems_are_those_of_the_space_groups() -> None:
    # pymatgen takes long for each; the groups of a system follow one another.
    spans = [(1, 2), (3, 15), (16, 74), (75, 142), (143, 167), (168, 194), (195, 230)]
    for first, last in spans:
        (system,) = {crystal_system(number) for number in range(first, last + 1)}
        for number in (first, last):
            assert SpaceGroup.from_int_number(number).crystal_system == system
    assert crystal_system(0) == ""
    assert elements_of("H2NaO4PTi") == ["H", "Na", "O", "P", "Ti"]


def test_rates_by_what_a_crystal_is() -> None:
    systems = by_crystal_system(TABLE)
    assert list(systems) == ["triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal",
                             "hexagonal", "cubic"]  # fmt: skip
    found = {name: rate for name, rate in systems.items() if rate.of}
    assert found == {"triclinic": Rate(0, 1), "tetragonal": Rate(1, 1), "hexagonal": Rate(1, 1),
                     "cubic": Rate(1, 1)}  # fmt: skip
    assert by_number_of_elements(TABLE) == {1: Rate(1, 1), 2: Rate(2, 3)}
    assert elements_in_stable(TABLE) == {"Na": 1, "Cl": 1, "Cu": 1, "Ti": 1, "O": 1}
    nothing = TABLE[TABLE["status"] == "failed"]
    assert by_number_of_elements(nothing) == {} == elements_in_stable(nothing)


def test_a_rate_converges_to_what_it_is() -> None:
    ids = [f"{n:05d}" for n in range(3000)]
    stable = ids[::3]
    found = convergence(ids, stable)
    assert found.sizes[0] == 1 and found.sizes[-1] == 3000
    assert found.shares[-1] == pytest.approx(1 / 3)
    assert (found.low[-1], found.high[-1]) == Rate(1000, 3000).interval
    inside = (found.low <= 1 / 3) & (found.high >= 1 / 3)
    assert inside.mean() > 0.8
    # The order is at random: it does not follow that of the list.
    late = convergence(ids, ids[1500:])
    assert abs(late.shares[late.sizes > 100] - 0.5).max() < 0.15
    assert len(convergence([], []).sizes) == 0


# ---------------------------------------------------------------- a store

EMT = ["--model", "ase.calculators.emt:EMT", "--mesh", "4", "4", "4", "--band-points", "11",
       "--workers", "0", "--supercell", "2", "2", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generators, one of them asked for something; with known crystals and duplicates."""
    folder = tmp_path_factory.mktemp("benchmark")
    metals = [bulk(s, a=a) for s, a in itertools.product(("Cu", "Al", "Ni"), (3.6, 3.9))]
    for n, atoms in enumerate(metals):
        atoms.info["e_above_hull"] = 0.06 * n
    write(folder / "a.extxyz", [*metals[:4], bulk("Si")])
    write(folder / "b.extxyz", [*metals[2:], bulk("Cu", "bcc", a=2.9)])
    write(folder / "known.extxyz", bulk("Al"))
    (folder / "m.toml").write_text(
        '[[generators]]\nname = "<A> & co"\ntraining_set = "MP-20"\nfiles = "a.extxyz"\n'
        'columns = "e_above_hull"\nhours = 0.5\nbatch_size = 50\narchitecture = "GNN"\n'
        '[[generators]]\nname = "B"\ncondition = "metal"\nfiles = ["b.extxyz", "gone.cif"]\n'
        "parameters = 4.8\n"
    )
    out = folder / "s.h5"
    command = ["run", str(folder / "m.toml"), "--out", str(out), "--unique", *EMT]
    assert main([*command, "--against", str(folder / "known.extxyz")]) == 1  # silicon
    return out


def test_the_page_has_the_tables(store: Path) -> None:
    page = appended(store, ".html").read_text(encoding="utf-8")
    assert "&lt;A&gt; &amp; co, MP-20" in page and "<A> & co" not in page
    for text in ("Generators as published", "10,902", "41.0 %", "40.1–41.9 %", "B, metal",
                 "gone.cif", "D.U.N.", "near the hull", "0.64", "333.3", "53.7"):  # fmt: skip
        assert text in page, text
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    # What drawings point to is in them, and nothing is fetched from anywhere.
    for target in re.findall(r'(?:xlink:href|href)="#([^"]+)"', page) + re.findall(
        r"url\(#([^)]+)\)", page
    ):
        assert target in ids, target
    assert not re.findall(r'(?:src|href)="https?://', page.replace("http://www.w3.org", ""))


def test_figures_come_with_their_numbers(store: Path, tmp_path: Path) -> None:
    assert main(["report", str(store), "--figures", str(tmp_path / "figures")]) == 0
    names = {path.stem for path in (tmp_path / "figures").iterdir()} - {"hpcbench"}
    assert names == {
        "rates-by-generator", "rates-by-condition", "rates-by-crystal-system",
        "rates-by-number-of-elements", "elements-in-stable-crystals", "convergence",
        "rates-by-threshold", "lowest-frequencies", "reasons",
    }  # fmt: skip
    for name in names:
        png, svg, table = ((tmp_path / "figures" / f"{name}.{e}") for e in ("png", "svg", "csv"))
        assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000
        root = xml.etree.ElementTree.parse(svg).getroot()
        assert root.tag.endswith("svg") and len(list(root.iter())) > 20
        assert len(pandas.read_csv(table)) >= 1
    rows = pandas.read_csv(tmp_path / "figures" / "rates-by-generator.csv")
    found = {r.generator: (r.stable, r.determined) for r in rows.itertuples()}
    for one in outcomes_of(hpcbench.open(store).table):
        assert found[one.generator.label] == (one.stable, one.determined)
    assert found["MatterGen, Alex-20"] == (4469, 10902)
    # The page was not asked for.
    assert not (tmp_path / "s.h5.html").exists()


def test_names_of_any_kind_are_drawn(tmp_path: Path) -> None:
    """Long ones, of letters that no file can hold, and such as matplotlib takes for its own."""
    long = "a very long name of a generator, of which there are several, trained on "
    names = [long + "MP-20", long + "Alex-20", "_hidden", "$x^$ 100 % <b>", "lone \ud800 surrogate"]
    table = pandas.concat(
        [
            TABLE.assign(origins=origins_to_json([Origin("a", 0, Generator(name))]))
            for name in names
        ],
        ignore_index=True,
    )
    written = save_figures(benchmark_figures(table, ranked_outcomes(table)), tmp_path, "{}")
    rows = pandas.read_csv(tmp_path / "rates-by-generator.csv")
    ours = rows[rows["source"] == "here"]["generator"]
    assert len(ours) == len(set(ours)) == 5
    assert {"hidden", "$x^$ 100 % <b>", "lone ? surrogate"} < set(ours)
    text = (tmp_path / "rates-by-generator.svg").read_text()
    assert "&lt;b&gt;" in text and "hidden" in text and "MP-20" in text
    assert len(written) == 3 * 8


def test_the_json_is_as_its_schema_says(store: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((DOCS / "benchmark.schema.json").read_text())
    assert main(["report", str(store), "--json", str(tmp_path / "b.json")]) == 0
    data = json.loads((tmp_path / "b.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    assert data == json.loads(json.dumps(benchmark_json(hpcbench.open(store))))
    one = next(g for g in data["generators"] if g["name"] == "<A> & co")
    assert one["counts"]["generated"] == 5
    assert one["counts"]["novel"] == 1  # copper; aluminium is known
    assert one["reasons"] == {"potential": 1}
    assert one["entries_a_minute"] == pytest.approx(5 / 30)
    assert one["entries_a_minute_at_batch_200"] == pytest.approx(5 / 30 * 4)
    counts = one["counts"]
    assert counts["near_hull"] == counts["stable_and_novel"]
    share = one["of_generated"]["dynamically_stable_unique_novel"]
    assert share == pytest.approx(
        counts["stable_and_novel"] / counts["sampled"] * counts["unique"] / counts["generated"]
    )
    # A wrong document is found out.
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "generators": [{"label": "x"}]}, schema)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_table_sorts_in_a_browser(store: Path, tmp_path: Path) -> None:
    """The page as it is, with a script behind it that clicks and says what the table is then."""
    import subprocess

    page = appended(store, ".html").read_text(encoding="utf-8")
    script = """<script>
      const table = document.querySelector("#generators table.sortable");
      const first = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent).join("|");
      const button = n => table.tHead.rows[0].cells[n].querySelector("button");
      const said = [];
      button(0).click(); said.push(first()); button(0).click(); said.push(first());
      button(1).click(); said.push(first()); button(9).click(); said.push(first());
      document.title = "said:" + JSON.stringify(said) + ":end";
      const words = document.querySelector(".filter input");
      words.value = "bcc-nothing"; words.oninput();
      document.body.dataset.shown =
        [...document.getElementById("table").tBodies[0].rows].filter(r => !r.hidden).length;
    </script>"""
    (tmp_path / "page.html").write_text(
        page.replace("</body>", script + "</body>"), encoding="utf-8"
    )
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>said:(.*?):end</title>", done.stdout)
    assert found, done.stderr[-2000:]
    a, b = "&lt;A&gt; &amp; co, MP-20", "B, metal"
    by_name, backwards, by_generated, by_share = json.loads(found.group(1))
    assert (by_name, backwards) == (f"{a}|{b}", f"{b}|{a}")
    assert by_generated == f"{a}|{b}"  # 5 and 6
    assert set(by_share.split("|")) == {a, b}
    assert 'data-shown="0"' in done.stdout
