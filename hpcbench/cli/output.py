"""``hpcbench export``, ``import`` and ``report``: what others read, what others wrote."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hpcbench.cli.look import store_path
from hpcbench.config import IMPORTED
from hpcbench.errors import SetupError, UsageError
from hpcbench.exchange.formats import FORMATS
from hpcbench.outputs import appended, settings_text
from hpcbench.threads import cap_threads

# Seconds from one line about an import's progress to the next.
_INTERVAL = 10.0
# Crystals that are named in a line.
_NAMED = 10


def export_command(options: argparse.Namespace) -> int:
    """Write results in another format."""
    from hpcbench.exchange.exporting import export
    from hpcbench.exchange.tables import table_text
    from hpcbench.store.reader import Store

    store = Store(store_path(options.store))
    if options.id:
        store = store[[store.find(words) for words in options.id]]
    if options.where:
        store = store.where(options.where)
    form = FORMATS[options.format]
    if options.output == "-":
        if not form.streams:
            raise UsageError(f"{options.format} cannot go to standard output: give -o PATH")
        sys.stdout.write(table_text(store, options.format))
        return 0
    path = Path(options.output or appended(store.path, form.ending))
    number = export(store, options.format, path, force=options.force)
    print(f"{path}: {number} crystals")
    return 0


def import_command(options: argparse.Namespace) -> int:
    """Make a store of phonons that others computed."""
    cap_threads()
    from hpcbench.exchange.finding import find
    from hpcbench.exchange.importing import import_config, import_found

    found = find(options.sources)
    flags = {name: getattr(options, name) for name in ("out", *IMPORTED)}
    config = import_config(found, flags, options.config)
    labels = f", {len(found.label_files)} label files" if found.label_files else ""
    print(f"{len(found.jobs)} crystals{labels}; protocol {config.protocol}", flush=True)
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _INTERVAL:
            told = time.monotonic()
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    result = import_found(found, config, tell)
    print(f"{config.out}: {result.done} of {result.total} crystals with phonons")
    for kind, number in sorted(result.reasons.items()):
        print(f"  {number:6d}  {kind}")
    if result.repeated:
        first = ", ".join(result.repeated[:_NAMED])
        more = ", ..." if len(result.repeated) > _NAMED else ""
        print(
            f"{len(result.repeated)} crystals occur twice in the same supercell, the first one "
            f"counts: left out {first}{more}"
        )
    if result.inputs:
        print(
            f"{result.inputs} files without phonons left out: other files of their names have them"
        )
    if result.with_nac:
        print(f"Born charges of {result.with_nac} crystals are applied")
    if result.changed:
        first = ", ".join(result.changed[:_NAMED])
        more = ", ..." if len(result.changed) > _NAMED else ""
        print(f"  they change the verdict of {first}{more}")
    compared = result.agree + result.differ
    if compared:
        print(f"{result.agree} of {compared} labels agree with the verdicts by phononbench")
    if result.different:
        print(f"  they differ for {', '.join(result.different)}")
    if result.without_phonons:
        print(f"{result.without_phonons} labels are of crystals without phonons")
    return 1 if result.reasons else 0


def report_command(options: argparse.Namespace) -> int:
    """Write the report: a page, JSON, figures."""
    from hpcbench.farm.ending import consolidate_if_idle
    from hpcbench.store.reader import Store

    path = store_path(options.store)
    # A launch of which a rank was killed leaves its segments: nothing else joins them.
    consolidate_if_idle(path)
    try:
        from hpcbench.report.html import write_report
    except ImportError as error:
        raise SetupError(
            f"{error}: ./launch.sh setup report, or pip install '.[report]' in hpcbench's folder"
        ) from error
    store = Store(path)
    if options.table:
        from hpcbench.report.terminal import print_results

        print_results(store)
    if options.json:
        from hpcbench.report.benchmark_json import write_json

        print(f"benchmark: {write_json(store, Path(options.json), force=options.force)}")
    if options.figures:
        from hpcbench.analysis.generators import ranked_outcomes
        from hpcbench.report.benchmark_figures import benchmark_figures
        from hpcbench.report.figure import save_figures

        table = store.table
        figures = benchmark_figures(table, ranked_outcomes(table))
        settings = settings_text(store.settings)
        written = save_figures(figures, Path(options.figures), settings, force=options.force)
        print(f"figures: {len(figures)}, in {len(written)} files in {options.figures}")
    if options.html or options.output or not (options.json or options.figures):
        output = Path(options.output or appended(store.path, ".html"))
        print(f"report: {write_report(store, output, force=options.force)}")
    return 0
