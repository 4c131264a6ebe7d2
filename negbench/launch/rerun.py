"""Repeat a run that is on record, here, and compare."""

import dataclasses
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from negbench.data.fingerprint import describe
from negbench.data.load import load_whole
from negbench.evaluate import final
from negbench.evaluate.source import run_source
from negbench.launch.here import execute_here
from negbench.launch.processes import launch
from negbench.records.checks.manifest import record_files
from negbench.records.checks.repeat import Repeated, compare
from negbench.records.checks.same import check_code, check_data
from negbench.records.checks.verify import newest_checkpoint
from negbench.records.run.config import read_settings
from negbench.records.run_folder import RunFolder
from negbench.runtime.device import choose_device
from negbench.runtime.errors import UserError
from negbench.runtime.place import was_launched
from negbench.settings.keys import Flat
from negbench.settings.plugins.find import list_methods
from negbench.settings.resolve import Resolved, restore


def rerun(
    recorded: Path,
    output: Path,
    device: str,
    arguments: Sequence[str],
    seed: int | None = None,
    place: Flat | None = None,
    trust_code: bool = False,
    quiet: bool = False,
) -> Repeated | None:
    """Make a run again in `output`, by as many processes as the last attempt had, and compare it with its record.

    `place` are settings that say where the data is; `arguments` start one rank of several. With another `seed` no rows
    are compared. None in such a rank. UserError if the code is not trusted or is other code than that of the run, or
    if `output` holds the run itself.
    """
    with importable(RunFolder(recorded), trust_code):
        resolved = restored(recorded, seed, place or {})
        now = output / resolved.run_id
        if now.resolve() == recorded.resolve():
            raise UserError(f"{now} is the run itself; choose another --output")
        check_data(
            RunFolder(recorded), describe(load_whole(resolved.config.data)), "--set data.root=DIR names its place here"
        )
        processes = RunFolder(recorded).read_environment().get("world_size") or 1
        if processes > 1 and not was_launched():
            if code := launch(processes, arguments):
                raise SystemExit(code)
        else:
            execute_here(resolved, output, device, quiet=quiet)
            if was_launched():
                return None
        return compare(recorded, now, final.protocols_of(resolved.config), rows=seed is None)


def evaluate_again(
    recorded: Path, output: Path, device: str, settings: Sequence[str], note: Callable[[str], None]
) -> Repeated:
    """Evaluate the newest checkpoint of a run in a copy of its records, and compare. Runs no code of the run."""
    newest, copy = newest_checkpoint(recorded), output / "evaluated" / recorded.resolve().name
    if newest is None:
        raise UserError(f"{recorded} has no checkpoint; `negbench bundle --encoder` adds that of each run")
    if copy.exists():
        raise UserError(f"{copy} exists; delete it, or choose another --output")
    checkpoint = newest.relative_to(recorded)
    kept = [name for name in record_files(recorded) if not name.startswith("evaluations/")]
    for name in (*kept, str(checkpoint), f"{checkpoint}.sha256"):
        if (recorded / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(recorded / name, copy / name)
    source = run_source(copy, note, settings)
    protocols = final.protocols_of(source.config)
    final.evaluate(source, protocols, choose_device(device), note=note)
    return compare(recorded, copy, protocols, rows=False)


@contextmanager
def importable(folder: RunFolder, trust_code: bool) -> Iterator[None]:
    """Let imports find the code that a run brings along, and that of no run afterwards.

    UserError if there is such code and it is not trusted, or if it would stand for modules of Python or of negbench.
    """
    if not folder.method.exists():
        yield
        return
    if not trust_code:
        raise UserError(f"{folder.method} is code of the run, and would be executed; read it, and add --trust-code")
    code = folder.code.absolute()
    for path in code.glob("*"):
        if path.stem in sys.stdlib_module_names | {"negbench"}:
            raise UserError(f"{path} would stand for the module {path.stem} that all else imports; it is not executed")
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(code))
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(code):
                del sys.modules[name]


def restored(recorded: Path, seed: int | None, place: Flat) -> Resolved:
    """Return the settings of a run on record, with its code. UserError if its method is neither here nor in it."""
    folder = RunFolder(recorded)
    method = read_settings(folder.config).get("method.name")
    if not folder.method.exists() and method not in list_methods():
        raise UserError(
            f"{recorded} is of the method {method!r}, which is not installed, and brings no code of it along"
        )
    resolved, environment = restore(recorded), folder.read_environment()
    patch = f" with {environment['changes']}" if environment.get("changes") else ""
    remedy = f"install negbench at revision {environment.get('git_revision') or 'unknown'}{patch}"
    check_code(folder, resolved.method_file, remedy)
    config = resolved.config
    data = config.data.model_copy(update={key.partition(".")[2]: value for key, value in place.items()})
    config = config.model_copy(update={"data": data} | ({} if seed is None else {"seed": seed}))
    changed = environment.get("changed") or {}
    return dataclasses.replace(resolved, config=config, origins=dict.fromkeys(changed, "--set"))
