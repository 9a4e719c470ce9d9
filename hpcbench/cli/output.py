"""``hpcbench export``, ``import`` and ``report``: what others read, what others wrote."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hpcbench.cli.look import store_path
from hpcbench.counting import counted, they_are
from hpcbench.errors import SetupError, UsageError
from hpcbench.interop.export_formats import FORMATS
from hpcbench.outputs import appended, settings_text
from hpcbench.settings_hash import IMPORTED
from hpcbench.texts import one_line, printable, shown_reason
from hpcbench.threads import cap_threads

# Seconds from one line about an import's progress to the next.
_INTERVAL = 10.0
# Crystals that are named in a line.
_NAMED = 10


def export_command(options: argparse.Namespace) -> int:
    """Write results in another format."""
    from hpcbench.interop.exporting import export
    from hpcbench.interop.tables import table_text
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
        text = table_text(store, options.format)
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        return 0
    path = Path(options.output or appended(store.path, form.ending))
    number = export(store, options.format, path, force=options.force)
    print(f"{path}: {counted(number, 'crystal')}")
    return 0


def import_command(options: argparse.Namespace) -> int:
    """Make a store of phonons that others computed."""
    cap_threads()
    from hpcbench.interop.finding import find
    from hpcbench.interop.importing import import_config, import_found

    found = find(options.sources)
    flags = {name: getattr(options, name) for name in ("out", *IMPORTED)}
    config = import_config(found, flags, options.config)
    labels = f", {counted(len(found.label_files), 'label file')}" if found.label_files else ""
    print(f"{counted(len(found.jobs), 'crystal')}{labels}; protocol {config.protocol}", flush=True)
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _INTERVAL:
            told = time.monotonic()
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    result = import_found(found, config, tell)
    print(f"{config.out}: {result.done} of {counted(result.total, 'crystal')} with phonons")
    for kind, number in sorted(result.reasons.items()):
        print(f"  {number:6d}  {shown_reason(kind)}")
    if result.repeated:
        first = one_line(", ".join(result.repeated[:_NAMED]))
        more = ", ..." if len(result.repeated) > _NAMED else ""
        print(
            f"{counted(len(result.repeated), 'crystal')} given more than once in the same "
            f"supercell, the first one counts: left out {first}{more}"
        )
    if result.inputs:
        print(
            f"{counted(result.inputs, 'file')} without phonons left out: other files of the same "
            f"name have them"
        )
    if result.with_nac:
        print(f"Born charges of {they_are(result.with_nac, 'crystal')} applied")
    if result.changed:
        first = one_line(", ".join(result.changed[:_NAMED]))
        more = ", ..." if len(result.changed) > _NAMED else ""
        print(f"  they change the verdict of {first}{more}")
    compared = result.agree + result.differ
    if compared:
        print(f"{result.agree} of {compared} labels agree with the verdicts by phononbench")
    if result.different:
        print(f"  they differ for {one_line(', '.join(result.different))}")
    if result.without_phonons:
        print(f"{result.without_phonons} labels are of crystals without phonons")
    return 1 if result.reasons else 0


def report_command(options: argparse.Namespace) -> int:
    """Write the report: a page, JSON, figures."""
    from hpcbench.scheduler.shutdown import consolidate_if_idle
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
        print(f"figures: {len(figures)}, in {counted(len(written), 'file')} in {options.figures}")
    if options.html or options.output or not (options.json or options.figures):
        output = Path(options.output or appended(store.path, ".html"))
        print(f"report: {write_report(store, output, force=options.force)}")
    return 0
