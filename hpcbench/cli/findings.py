"""What the doctor finds, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

OK, NOTE, BAD = "ok", "note", "BAD"
STYLES = {OK: "green", NOTE: "yellow", BAD: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes
    ----------
    state : str
        ``ok``; ``note`` for what a run can do without; ``BAD`` for what it cannot.
    check : str
        What was looked at.
    text : str
        What was found.
    advice : str
        What to do, if anything.
    """

    state: str
    check: str
    text: str
    advice: str = ""


def survive(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check that only this process does; a crash is one, too."""
    findings: list[Finding] = []
    try:
        findings.extend(check())  # those before a crash stay
    except Exception as error:  # a doctor must survive whatever is broken
        findings.append(Finding(BAD, name, f"{type(error).__name__}: {error}"))
    return findings


def split(message: str, mark: str) -> tuple[str, str]:
    """What a message says, and what it says is to be done: its last line, or behind the mark."""
    text, _, advice = message.rpartition("\n") if "\n" in message else message.partition(mark)
    return text, advice


def show(findings: Sequence[Finding]) -> None:
    """Print the table."""
    try:
        from rich.table import Table
        from rich.text import Text

        from hpcbench.report.terminal import console
    except ImportError:
        # What is missing stands in the findings.
        for finding in findings:
            print(f"{finding.state:4} {finding.check:10} {finding.text}")
            if finding.advice:
                print(f"{'':15} -> {finding.advice}")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("", "check", "finding, and what to do"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.state, STYLES[finding.state]),
            finding.check,
            Text(finding.text),
        )
        if finding.advice:
            # On a line of its own: a command that can be copied whole.
            table.add_row("", "", Text(f"-> {finding.advice}", "bold"))
    console().print(table)
