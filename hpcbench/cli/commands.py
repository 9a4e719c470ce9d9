"""The commands by name. A command is a module: ``HELP``, ``DESCRIPTION``, ``add_options``, ``run``.

Commands import their modules only when they run, because ``--help`` must be instant.
"""

from __future__ import annotations

from types import ModuleType

from hpcbench.cli import (
    accuracy,
    consolidate,
    diff,
    doctor,
    export,
    import_,
    merge,
    models,
    plan,
    reanalyse,
    repair,
    report,
    run,
    show,
    status,
    validate,
    verify,
)

# In the order of the help.
COMMANDS: dict[str, ModuleType] = {
    "run": run,
    "validate": validate,
    "plan": plan,
    "status": status,
    "show": show,
    "export": export,
    "import": import_,
    "reanalyse": reanalyse,
    "report": report,
    "accuracy": accuracy,
    "verify": verify,
    "repair": repair,
    "consolidate": consolidate,
    "merge": merge,
    "diff": diff,
    "models": models,
    "doctor": doctor,
}
