"""Reading of a file in a separate process, for files that may end the process that reads them.

The process (``python -m hpcbench.sources.isolated_reading``) announces what it reads next. If it
dies, its caller knows where, and starts another one that leaves that out.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from hpcbench.errors import UnreadableError
from hpcbench.limits import Limits
from hpcbench.sources.reading import KILLS, Place, Record, failure, read_part
from hpcbench.sources.records import SourceFile

# Number of processes that may die at members of one archive before all of it is left out.
MOST_DEATHS = 5


def read_apart(
    file: SourceFile, *, with_supercell: bool, limits: Limits
) -> Iterator[tuple[Place, Record]]:
    """Yield the records of a file as :func:`read_part` does, without parts that end the process.

    Parameters
    ----------
    file : SourceFile
        The file.
    with_supercell : bool
        As in :func:`read_part`.
    limits : Limits
        How much is read.

    Yields
    ------
    (Place, Crystal or Unreadable)
        Only after all of the file has been read. A file, or an archive's member, that ended the
        process is one record of kind "kills its process".
    """
    left_out: dict[str, str] = {}
    while len(left_out) < MOST_DEATHS:
        records, reading, end = _read_once(file, with_supercell, limits, left_out)
        if not end:
            yield from records
            return
        if reading in left_out:
            break
        left_out[reading] = f"reading it ended the process ({end})"
    yield left_out_row(file, f"reading it ended {len(left_out)} processes ({end})")


def left_out_row(file: SourceFile, reason: str) -> tuple[Place, Record]:
    """Return the record of a file that is not read because it ends the process that reads it.

    Parameters
    ----------
    file : SourceFile
        The file.
    reason : str
        The reason in its row.
    """
    return (0, 0), failure(UnreadableError(KILLS, reason), file.path, 0, file.made_by)


def _read_once(
    file: SourceFile, with_supercell: bool, limits: Limits, left_out: dict[str, str]
) -> tuple[list[tuple[Place, Record]], str, str]:
    """Return the records, the last name read, and how the process ended (empty: all was read)."""
    # The process must import this package, not one from the working folder.
    above = str(Path(__file__).parents[2])
    paths = [path for path in (os.environ.get("PYTHONPATH", ""), above) if path]
    records: list[tuple[Place, Record]] = []
    reading = file.path
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "hpcbench.sources.isolated_reading"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    ) as process:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        try:
            # The pipe stays open: when it closes, the process knows that its caller is gone.
            pickle.dump((file, with_supercell, limits, left_out), process.stdin)
            process.stdin.flush()
            while (told := pickle.load(process.stdout)) is not None:
                if isinstance(told, str):
                    reading = told
                else:
                    records.append(told)
            return records, reading, ""
        except (EOFError, pickle.UnpicklingError, BrokenPipeError):
            code = process.wait()
        finally:
            process.kill()
    how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
    return records, reading, str(how)


def main() -> None:
    """Read the file that the caller names, and write records to standard output, pickled."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        # These signals are for the caller, which goes on or ends this process.
        signal.signal(number, signal.SIG_IGN)
    # Output of libraries must not mix with the records.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    file, with_supercell, limits, left_out = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_caller, daemon=True).start()

    def reads(name: str) -> str:
        pickle.dump(name, answers)
        answers.flush()
        return str(left_out.get(name, ""))

    for told in read_part(file, with_supercell=with_supercell, limits=limits, reads=reads):
        pickle.dump(told, answers)
    pickle.dump(None, answers)
    answers.flush()


def _end_with_caller() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
