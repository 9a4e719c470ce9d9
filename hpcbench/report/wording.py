"""Values of the store in words: formulas, space groups, criteria, shares, settings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from hpcbench.analysis.rates import Rate
from hpcbench.criteria import ACOUSTIC, EXACT_Q, SUPERCELL_Q, THREE_LOWEST, Criterion
from hpcbench.report.drawings import number, plain
from hpcbench.store.schema import LOW_SUPERCELL

if TYPE_CHECKING:
    import pandas

DASH = "–"
PLACE_NAMES = {
    "path": "band path",
    "commensurate": "q commensurate with the supercell",
    "mesh": "q mesh",
    SUPERCELL_Q: "q commensurate with the supercell matrix",
    EXACT_Q: "q where frequencies are exact",
}
GAMMA_MODES = {ACOUSTIC: "acoustic modes at Γ", THREE_LOWEST: "three lowest modes at Γ"}
# Settings in the order of a run: title, unit. Other settings follow with their names.
SETTINGS = {
    "protocol": ("protocol", ""),
    "criterion": ("criterion of the verdict", ""),
    "model": ("potential", ""),
    "weights_sha256": ("weights, SHA-256", ""),
    "dtype": ("precision", ""),
    "relax": ("relaxation", ""),
    "pressure": ("external pressure", "GPa"),
    "fmax": ("largest force accepted", "eV/Å"),
    "max_steps": ("steps, at most", "a round"),
    "symmetry_tolerance": ("symmetry found at", "Å"),
    "supercell": ("supercell", ""),
    "supercell_atoms": ("atoms of a supercell, at most", ""),
    "displacement": ("displacement", "Å"),
    "symprec": ("phonopy's symprec", "Å"),
    "band_points": ("q on the longest path segment", ""),
    "mesh": ("q mesh", ""),
    "cutoff_frequency": ("thermal cut-off", "THz"),
    "interpolation_error": ("interpolation off by, at most", "THz"),
    "derivative": ("force constants by", ""),
    "temperatures": ("temperatures", "K"),
    "min_distance": ("atoms apart at least", "Å"),
    "hash": ("hash of these settings", ""),
}


def text_of(value: Any) -> str:
    """Return a cell of a text column; rows without one may have NaN."""
    return value if isinstance(value, str) else ""


def texts_of(table: pandas.DataFrame, column: str) -> list[str]:
    """Return a text column; empty if the table does not have it.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of a store.
    column : str
        Its name.
    """
    return [text_of(value) for value in table[column]] if column in table else []


def formula_html(formula: str) -> Markup:
    """Format ``Al2N2`` with subscripts."""
    parts = re.split(r"(\d+)", formula)
    return Markup("").join(
        Markup("<sub>{}</sub>").format(part) if part.isdigit() else escape(part) for part in parts
    )


def symbol_html(symbol: str) -> Markup:
    """Format ``P6_3mc`` with subscripts."""
    parts = re.split(r"_(\d)", symbol)
    return Markup("").join(
        Markup("<sub>{}</sub>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def group_html(record: Mapping[str, Any]) -> Markup:
    """Format the space group, before and after the relaxation if they differ."""
    groups = []
    for suffix in ("_before", ""):
        symbol = text_of(record.get(f"spacegroup{suffix}"))
        group_number = record.get(f"spacegroup_number{suffix}", 0)
        if symbol and group_number == group_number:
            # No line break between the symbol and its number.
            groups.append(Markup("{}\u00a0({:.0f})").format(symbol_html(symbol), group_number))
    if not groups:
        return Markup(DASH)
    return groups[0] if len(set(groups)) == 1 else Markup(" → ").join(groups)


def sentence(found: Criterion) -> str:
    """Return the condition for a crystal to be stable by a criterion."""
    where, threshold = PLACE_NAMES[found.place], f"{plain(found.threshold)}\u00a0THz"
    apart = GAMMA_MODES[found.gamma_modes]
    if not found.gamma_apart:
        return f"lowest frequency on the {where} ≥ {threshold}"
    if found.gamma_threshold is None:
        return f"lowest frequency on the {where}, the {apart} left out, ≥ {threshold}"
    gamma = f"{number(found.gamma_threshold, 3)}\u00a0THz"
    return f"{apart} ≥ {gamma}, all others at {where} ≥ {threshold}"


def looks_at(criterion: Criterion) -> str:
    """Return the place that a criterion examines, and its treatment of the modes at Gamma."""
    where = PLACE_NAMES[criterion.place]
    if not criterion.gamma_apart:
        return where
    if criterion.gamma_threshold is None:
        return f"{where}; the {GAMMA_MODES[criterion.gamma_modes]} left out"
    gamma = f"{number(criterion.gamma_threshold, 3)}\u00a0THz"
    return f"{where}; the {GAMMA_MODES[criterion.gamma_modes]} against {gamma}"


def percent(count: int, of: int) -> str:
    """Format a share; a dash if the total is zero.

    Parameters
    ----------
    count : int
        The part.
    of : int
        The total.
    """
    return f"{100 * count / of:.1f} %" if of else DASH


def interval_words(rate: Rate) -> str:
    """Format Wilson's 95 % interval of a rate."""
    if not rate.of:
        return DASH
    low, high = rate.interval
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def rate_words(rate: Rate) -> str:
    """Format a rate in percent."""
    return percent(rate.count, rate.of)


def chance_words(chance: float) -> str:
    """Format a probability in percent; a bootstrap gives neither 0 nor 100 %."""
    if math.isnan(chance):
        return DASH
    if chance > 0.999:
        return "> 99.9 %"
    return f"{100 * chance:.1f} %" if chance >= 0.001 else "< 0.1 %"


def causes_of(done: pandas.DataFrame) -> list[tuple[str, int]]:
    """Return the causes of undetermined verdicts and their numbers, the largest first."""
    kinds = (text.partition(":")[0] for text in texts_of(done, "cause"))
    return Counter(filter(None, kinds)).most_common()


def in_low_supercells(done: pandas.DataFrame) -> int:
    """Count crystals whose supercell is so low that it may not suffice.

    Older stores lack the column.
    """
    if "supercell_height" not in done:
        return 0
    return int((done["supercell_height"] < LOW_SUPERCELL).sum())


def earlier_words(number: int) -> str:
    """Return a note that crystals of earlier lists are left out; empty if there are none."""
    if not number:
        return ""
    crystals = "1 more crystal is" if number == 1 else f"{number:,} more crystals are"
    return (
        f"{crystals} in the store from earlier lists of this run, and in no number here: the "
        f"latest list counts"
    )


def settings_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings as (title, value with its unit)."""
    known = [key for key in SETTINGS if key in settings]
    unknown = sorted(set(settings) - set(SETTINGS))
    rows = []
    for key in (*known, *unknown):
        title, unit = SETTINGS.get(key, (key.replace("_", " "), ""))
        text = f"{_setting(key, settings[key])} {unit}".strip()
        if key == "supercell" and settings.get("validate"):
            text = f"the reference's; where it names none, {text}"
        rows.append((title, text))
    return rows


def _setting(key: str, value: Any) -> str:
    if key == "weights_sha256":
        return str(value)[:12] or DASH
    if isinstance(value, list):
        between = " × " if key == "mesh" or (key == "supercell" and len(value) == 3) else ", "
        if key == "supercell" and len(value) == 1:
            return f"at least {plain(value[0])} Å high, not across vacuum"
        length = " A, length" if key == "mesh" and len(value) == 1 else ""
        return between.join(_setting("", x) for x in value) + length
    return plain(value) if isinstance(value, float) else str(value)
