from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import hpcbench
from hpcbench.criteria import CRITERIA
from hpcbench.errors import StoreError, UsageError
from hpcbench.report import html
from hpcbench.report.band_plots import path_points, point_label, save_bands
from hpcbench.report.drawings import MOST_BYTES, bands_svg, histogram_svg, plain, share_svg
from hpcbench.report.html import write_report
from hpcbench.store.reader import Bands, Store

EVIL = "<script>alert('Cu')</script> & \"$x$\""
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects anchors, links, ids, rows and words."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.counts: dict[str, int] = {}
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def _see(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        assert len(values) == len(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if "id" in values:
            self.ids.append(values["id"])
        if "title" in values:
            self.titles.append(values["title"])
        if tag == "a":
            self.links.append(values["href"])
        self.addresses += [values[key] for key in ("src", "href", "action") if key in values]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, first: str) -> list[str]:
        (found,) = [row for row in self.rows if row and row[0] == first]
        return found


def crystals() -> list[Atoms]:
    copper, aluminium = bulk("Cu"), bulk("Al")
    simple, nickel = bulk("Cu", "sc", a=2.4), bulk("Ni")
    nickel.set_cell(nickel.cell[:] @ [[1.01, 0.004, 0], [0, 1, 0.006], [0, 0, 0.99]], True)
    close = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.1]], cell=[4, 4, 4], pbc=True)
    also_close = Atoms("Al2", positions=[[0, 0, 0], [0, 0, 0.1]], cell=[4, 4, 4], pbc=True)
    named = [(copper, EVIL), (aluminium, "aluminium"), (simple, "simple"), (nickel, "nickel")]
    for atoms, name in [*named, (close, "<b>close"), (also_close, "also close")]:
        atoms.info["name"] = name
    return [copper, aluminium, simple, nickel, close, also_close]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("report") / "store.h5"
    hpcbench.run(
        crystals(),
        model="ase.calculators.emt:EMT",
        dtype="float64",
        mesh=(4, 4, 4),
        supercell=(2, 2, 2),
        fmax=0.005,
        band_points=41,
        out=path,
    )
    return Store(path)


@pytest.fixture(scope="module")
def report(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report(store, path) == path
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def done_of(store: Store) -> list[str]:
    return list(store.table.index[store.table["status"] == "done"])


def test_the_page_is_well_formed_and_needs_nothing_beside_it(report: str) -> None:
    page = Page(report)
    assert report.startswith("<!DOCTYPE html>")
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith("#") for address in page.addresses)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "url(" not in report
    assert "@import" not in report
    assert set(re.findall(r"https?://[^\"' <]+", report)) <= {"http://www.w3.org/2000/svg"}


def test_names_are_escaped(report: str) -> None:
    page = Page(report)
    assert page.counts["script"] == 1
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", report)
    assert page.row(EVIL)
    assert page.row("<b>close")
    assert "b" not in page.counts


def test_every_done_crystal_has_its_row_and_its_bands(store: Store, report: str) -> None:
    page = Page(report)
    keys = done_of(store)
    assert len(keys) == 4
    assert sorted(page.links) == sorted(f"#c-{key}" for key in keys)
    assert page.counts["svg"] == len(keys) + 2
    for key in keys:
        values = store.table.loc[key]
        cells = page.row(values["name"])
        assert cells[3:5] == [str(values["natoms"]), str(values["relaxation_steps"])]
        assert cells[9] == values["verdict"]
        shown = [float(cell.replace("−", "-")) for cell in cells[5:9]]
        stored = [values[f"min_frequency_{p}"] for p in ("path", "commensurate", "mesh")]
        assert np.allclose(shown, [*stored, values["max_frequency"]], atol=0.0051)
    assert any(re.fullmatch(r"−\d\.\d{4} THz at q = \(.*\)", title) for title in page.titles)


def test_the_space_group_before_and_after(report: str) -> None:
    page = Page(report)
    assert page.row("aluminium")[2].replace("\u00a0", " ") == "Fm-3m (225)"
    assert page.row("nickel")[2].replace("\u00a0", " ") == "P-1 (2) → Fm-3m (225)"


def test_failed_crystals_show_dashes_and_their_reason(store: Store, report: str) -> None:
    page = Page(report)
    cells = page.row("<b>close")
    assert cells[4:9] == ["–"] * 5
    assert cells[9] == "failed"
    (reason,) = store.table.loc[store.table["name"] == "<b>close", "reason"]
    assert cells[10] == reason


def test_failures_are_counted_by_kind(report: str) -> None:
    (row,) = [row for row in Page(report).rows if row[1:3] == ["failed", "overlap"]]
    assert row[0] == "2"
    assert row[3] in ("<b>close", "also close")
    assert "apart" in row[4]


def test_numbers_are_those_of_the_table(store: Store, report: str) -> None:
    page = Page(report)
    done = store.table[store.table["status"] == "done"]
    stable = int((done["verdict"] == "stable").sum())
    assert 0 < stable < len(done)
    numbers = f"crystals 6 done 4 stable {stable} unstable {4 - stable} failed 2 unreadable 0"
    assert numbers in page.text
    for criterion in CRITERIA:
        (row,) = [row for row in page.rows if len(row) == 9 and row[0] == criterion.name]
        count = int((done[criterion.column] == "stable").sum())
        open_ = int((done[criterion.column] == "undetermined").sum())
        assert row[4:7] == [str(count), str(open_), f"{100 * count / (4 - open_):.1f} %"]
        assert row[8] == f"{100 * count / (6 - open_):.1f} %"
        assert float(row[2].replace("−", "-")) == criterion.threshold
    words = re.sub(r"[ \n]+", " ", "".join(page.words))
    assert "by criterion exact-q (lowest frequency on the q where frequencies are exact" in words


def test_kinds_of_negative_frequencies_are_counted(store: Store, report: str) -> None:
    done = store.table[store.table["status"] == "done"]
    rows = {row[0]: row[1:] for row in Page(report).rows if len(row) == 4}
    kinds = done["character"].astype(str)
    del rows["negative frequencies"]
    assert rows.keys() == set(kinds)
    assert len(rows) > 1
    for kind, (count, share, stable) in rows.items():
        assert int(count) == (kinds == kind).sum()
        assert share == f"{100 * int(count) / len(done):.1f} %"
        assert int(stable) == ((kinds == kind) & (done["verdict"] == "stable")).sum()


def test_settings_are_shown_with_units(report: str) -> None:
    text = Page(report).text
    for words in (
        "protocol robust",
        "supercell 2 × 2 × 2",
        "displacement 0.01 Å",
        "q mesh 4 × 4 × 4",
        "eV/Å",
        "precision float64",
    ):
        assert words in text
    assert "stand-in" not in text


def test_the_demonstration_model_is_marked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**store.settings, "model": "mattersim-demo", "weights_sha256": "0123456789abcdef"}
    monkeypatch.setattr(Store, "settings", settings)
    text = Page(write_report(store, tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "is a stand-in for demonstrations." in text
    assert "0123456789ab " in text


def test_limits_are_said(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_ROWS", 3)
    monkeypatch.setattr(html, "MOST_BANDS", 2)
    page = Page(write_report(store, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "The first 3 of 6 crystals; hpcbench export has all." in page.text
    assert "2 of 4 crystals that are done" in page.text
    assert page.counts["svg"] == 2 + 2
    assert len([row for row in page.rows if len(row) == 11]) == 1 + 3


@pytest.mark.parametrize("number", [1, 2])
def test_a_report_without_any_done_crystal(tmp_path: Path, number: int) -> None:
    path = tmp_path / "store.h5"
    hpcbench.run(crystals()[-number:], model="ase.calculators.emt:EMT", dtype="float64", out=path)
    page = Page(write_report(Store(path), tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "No crystal is done" in page.text
    assert "svg" not in page.counts
    assert page.row("also close")[9] == "failed"


def test_a_report_of_a_run_that_has_only_begun(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table[["id", "name", "status", "reason"]].iloc[:0].reset_index(drop=True)
    monkeypatch.setattr(Store, "table", table)
    monkeypatch.setattr(Store, "unfinished_ids", lambda _: ["a", "b"])
    page = Page(write_report(store, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "2 more crystals have no result yet" in page.text
    assert "No crystal has a result yet." in page.text


def test_rows_of_unreadable_entries_only(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ["id", "name", "formula", "natoms", "status", "reason"]
    table = store.table[columns].iloc[:1].copy()
    table[["name", "formula", "natoms"]] = ["bad.cif", np.nan, 0]
    table[["status", "reason"]] = ["unreadable", "syntax: no data block"]
    monkeypatch.setattr(Store, "table", table)
    page = Page(write_report(store, tmp_path / "r.html").read_text(encoding="utf-8"))
    cells = page.row("bad.cif")
    assert cells[1:9] == ["–"] * 8
    assert cells[9:] == ["unreadable", "syntax: no data block"]


def test_nothing_is_left_where_the_report_cannot_be_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is a folder"):
        write_report(store, tmp_path / "folder")
    for path in (tmp_path / "file" / "r.html", tmp_path / "none" / "r.html"):
        with pytest.raises(StoreError, match="cannot be written"):
            write_report(store, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match=r"r\.html: cannot be written: No space left on device"):
        write_report(store, tmp_path / "r.html")
    with pytest.raises(StoreError):
        save_bands(store.bands(done_of(store)[0]), tmp_path / "b.png")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_old_report_survives_a_failure(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.html"
    write_report(store, path)
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError):
        write_report(store, path)
    assert path.read_bytes() == old


def test_a_png_of_bands(store: Store, tmp_path: Path) -> None:
    from matplotlib.image import imread

    (key,) = store.table.index[store.table["name"] == "simple"]
    # Dollar signs would begin a formula, and the font has no Chinese.
    path = save_bands(store.bands(key), tmp_path / "bands.png", title="simple $x_{ 晶体")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = imread(path)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    assert image.shape[0] > 500
    # Real modes are blue; imaginary ones are red, and below.
    assert ((blue > red + 0.2) & (red < 0.4)).sum() > 500
    imaginary = (red > 0.6) & (green < 0.4)
    assert imaginary.sum() > 100
    assert np.flatnonzero(imaginary.any(axis=1)).min() > image.shape[0] / 4
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_other_formats_of_bands(store: Store, tmp_path: Path, ending: str, start: bytes) -> None:
    path = save_bands(store.bands(done_of(store)[0]), tmp_path / f"bands.{ending}")
    assert path.read_bytes().startswith(start)


def test_an_unknown_format_is_a_wrong_usage(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ending"):
        save_bands(store.bands(done_of(store)[0]), tmp_path / "bands.doc")


def test_labels_of_points() -> None:
    names = ("GAMMA", "S_0", "SIGMA_0", "X", "B_12", "Y'")
    assert [point_label(name) for name in names] == ["Γ", "S₀", "Σ₀", "X", "B₁₂", "Y′"]


def test_a_break_of_the_path_has_both_names(store: Store) -> None:
    names = [name for _, name in path_points(store.bands(done_of(store)[0]))]
    assert names[0] == "Γ"
    assert "U|K" in names


def test_numbers_as_printed() -> None:
    assert [plain(x) for x in (-0.299, 1e-5, 2.5e-7, 100.0)] == [
        "−0.299",
        "10⁻⁵",
        "2.5 × 10⁻⁷",
        "100",
    ]


def toy_bands(nbands: int, nsegments: int, points: int = 101) -> Bands:
    q = np.linspace(0, 1, points)
    phases = np.random.default_rng(1).random((nbands, 3)) * 9
    waves = np.array([10 * p[0] + np.sin(p[1] + 9 * q) + np.sin(p[2] + 23 * q) for p in phases])
    return Bands(
        [q + i for i in range(nsegments)],
        [waves.T - 3 for _ in range(nsegments)],
        [("GAMMA", "<X_1>")] * nsegments,
        [np.zeros((points, 3)) for _ in range(nsegments)],
    )


def test_drawings_of_crowded_spectra_stay_small() -> None:
    svg = bands_svg(toy_bands(nbands=60, nsegments=10))
    assert len(svg) < 1.1 * MOST_BYTES
    assert "&lt;X₁&gt;" in svg
    Page(svg)


def test_a_drawing_keeps_the_lowest_frequency() -> None:
    # A dip that is three points wide, of a spectrum with two bands.
    bands = toy_bands(nbands=2, nsegments=1)
    bands.frequencies[0][:] = [1.0, 5.0]
    bands.frequencies[0][50, 0] = -1.0
    svg = bands_svg(bands)
    (imaginary,) = re.findall(r'<path d="([^"]+)" style="stroke:var\(--unstable', svg)
    assert re.fullmatch(r"M\d+ \d+l\d+ \d+ \d+-\d+", imaginary)


def test_a_spectrum_without_imaginary_modes_has_no_warning_colour() -> None:
    bands = toy_bands(nbands=3, nsegments=2)
    bands.frequencies[:] = [np.abs(f) + 0.1 for f in bands.frequencies]
    assert "--unstable" not in bands_svg(bands)


def test_the_share_over_the_threshold() -> None:
    svg = share_svg({"path": np.array([-1e-6, -0.05, -2.0, -20.0])}, CRITERIA, "lee-xia")
    Page(svg)
    (path,) = re.findall(r'<path [^>]*d="([^"]+)"', svg)
    # A quarter at the strictest threshold, one step each for the three others.
    assert path.count("V") == 3
    assert "lee-xia −0.5" in svg
    assert "loew" not in svg


@pytest.mark.parametrize("size", [1, 500])
def test_the_histogram_counts_every_crystal(size: int) -> None:
    lowest = np.random.default_rng(2).normal(-1, 1, size)
    lowest[0] = -1e4
    kinds = ["stable", "undetermined", "unstable"]
    verdicts = [kinds[int(x < -0.1) + int(x < -1.0)] for x in lowest]
    svg = histogram_svg(lowest, verdicts)
    Page(svg)
    for kind in kinds:
        assert sum(map(int, re.findall(rf": (\d+) {kind}<", svg))) == verdicts.count(kind)


def test_the_report_loads_no_potential(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hpcbench.store.reader import Store\n"
        "from hpcbench.report.html import write_report\n"
        f"write_report(Store({str(store.path)!r}), Path({str(tmp_path / 'r.html')!r}))\n"
        "wrong = {'torch', 'mattersim', 'matplotlib', 'hpcbench.scheduler'} & set(sys.modules)\n"
        "sys.exit(repr(wrong) if wrong else 0)"
    )
    root = Path(hpcbench.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
