"""`negbench verify`, `negbench bundle`, `negbench rerun`: whether records can be trusted, and runs made again."""

from pathlib import Path
from typing import Annotated

import typer

from negbench.cli.options import OF_PLACE, Device
from negbench.runtime.errors import UserError

RESULTS = Path("results")


def verify(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or folders of runs.")],
) -> None:
    """Recompute what the records of runs say, and name what does not fit. Exit code 1 if something does not.

    Runs no code of a run.
    """
    from negbench.records.checks.verify import verify as verdict_of
    from negbench.report.read.runs import find

    verdicts = {path: verdict_of(path) for path in find(runs, RESULTS)}
    for path, verdict in verdicts.items():
        print(f"{path}: {'does not verify' if verdict.problems else 'verified'}")
        for problem in verdict.problems:
            print(f"  ! {problem}")
        for unknown in verdict.unknown:
            print(f"  ? {unknown}")
    bad = sum(bool(verdict.problems) for verdict in verdicts.values())
    print(f"{len(verdicts) - bad} of {len(verdicts)} runs verified")
    raise typer.Exit(1 if bad else 0)


def bundle(
    paths: Annotated[
        list[str], typer.Argument(metavar="RUN... FILE", help="Runs, folders of them, tunings; FILE.zip.")
    ],
    encoder: Annotated[bool, typer.Option("--encoder", help="Add each run's newest checkpoint.")] = False,
) -> None:
    """Write what others need to trust finished runs and to repeat them, into one file."""
    from rich.filesize import decimal

    from negbench.records.checks.bundle import write_bundle
    from negbench.records.tunings import TUNINGS
    from negbench.report.read.runs import find

    *named, file = paths
    if not named:
        raise UserError(f"name runs, and then the bundle's file: negbench bundle RUN... {file}")
    runs, tunings = find(named, RESULTS), TUNINGS.find(named, RESULTS)
    if not runs:
        raise UserError(f"{' and '.join(named)} hold no runs")
    size = write_bundle(Path(file), runs, tunings, encoder)
    tuned = f" and {len(tunings)} tunings" if tunings else ""
    print(f"written to {file}: {len(runs)} runs{tuned}, {decimal(size)}")


def rerun(
    recorded: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's file, or run folders.")],
    output: Annotated[Path, typer.Option(help="Folder of what is unpacked and made again.")] = Path("rerun"),
    seed: Annotated[int | None, typer.Option(help="Another seed: figures are compared, rows are not.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=f"{', '.join(OF_PLACE)}.")
    ] = None,
    evaluate_only: Annotated[
        bool, typer.Option("--evaluate-only", help="Evaluate the recorded encoders, train nothing.")
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Execute the method files that the runs bring along.")
    ] = False,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, result only.")] = False,
) -> None:
    """Repeat recorded runs and compare. Exit code 1 if a record is not the same, bit for bit; times aside."""
    from negbench.cli.progress import note
    from negbench.records.checks.bundle import unpack
    from negbench.report.read.runs import find
    from negbench.settings.keys import parse_override

    place = dict(parse_override(text) for text in settings or [])
    for key in place:
        if key not in OF_PLACE:
            raise UserError(f"--set {key}: a run is repeated with its settings; only {', '.join(OF_PLACE)} may be set")
    if evaluate_only and seed is not None:
        raise UserError("--seed belongs to training, and --evaluate-only trains nothing")
    if recorded.is_file():
        runs = unpack(recorded, output / f"{recorded.stem}-bundle")
    else:
        runs = find([str(recorded)], RESULTS)
    from negbench.launch.rerun import evaluate_again
    from negbench.launch.rerun import rerun as make_again

    options = ["--output", str(output), "--device", device, *(["--trust-code"] if trust_code else [])]
    options += [part for text in settings or [] for part in ("--set", text)]
    options += ["--seed", str(seed)] if seed is not None else []
    same = 0
    for number, run in enumerate(runs, 1):
        note(f"run {number} of {len(runs)}: {run.name}")
        if evaluate_only:
            repeated = evaluate_again(run, output, device, settings or [], note)
        else:
            arguments = ["rerun", str(run), *options]
            made = make_again(run, output, device, arguments, seed, place, trust_code, quiet)
            if made is None:
                return
            repeated = made
        figures = (
            f"{name} {_percent(before)}, now {_percent(now)}" for name, (before, now) in repeated.figures.items()
        )
        print(f"{run.name}: {'; '.join(figures)}")
        for difference in repeated.differences if seed is None else []:
            print(f"  ! {difference}")
        same += not repeated.differences
    if seed is not None:
        return
    print(f"{same} of {len(runs)} runs are the same, bit for bit")
    raise typer.Exit(0 if same == len(runs) else 1)


def _percent(value: float | None) -> str:
    from negbench.runtime.words import percent

    return "unknown" if value is None else percent(value)
