"""Findings of ``hpcbench doctor``, and their table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

OK, NOTE, BAD = "ok", "note", "BAD"
STYLES = {OK: "green", NOTE: "yellow", BAD: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes
    ----------
    state : str
        ``ok``; ``note`` for a problem that does not prevent a run; ``BAD`` for one that does.
    check : str
        Name of the check.
    text : str
        Description of the result.
    advice : str
        Advice to the user; empty if there is none.
    """

    state: str
    check: str
    text: str
    advice: str = ""


def survive(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of a check of this process; an exception becomes a finding, too.

    Parameters
    ----------
    name : str
        Name of the check.
    check : callable
        Yields its findings.
    """
    findings: list[Finding] = []
    try:
        findings.extend(check())  # those before a crash stay
    except Exception as error:  # the other checks must still run
        findings.append(Finding(BAD, name, f"{type(error).__name__}: {error}"))
    return findings


def split(message: str, mark: str) -> tuple[str, str]:
    """Divide a message into text and advice.

    Parameters
    ----------
    message : str
        The message. Its last line is the advice, if it has several.
    mark : str
        Begins the advice in a message of one line.
    """
    text, _, advice = message.rpartition("\n") if "\n" in message else message.partition(mark)
    return text, advice


def show(findings: Sequence[Finding]) -> None:
    """Print the findings as a table."""
    try:
        from rich.table import Table
        from rich.text import Text

        from hpcbench.report.terminal import console
    except ImportError:
        # The findings name the missing packages.
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
            # On a separate line, so that a command can be copied.
            table.add_row("", "", Text(f"-> {finding.advice}", "bold"))
    console().print(table)
