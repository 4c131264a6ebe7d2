"""`negbench evaluate`: a run's newest checkpoint on the test set, or on other data, by protocols by name."""

import json
from pathlib import Path
from typing import Annotated

import typer

from negbench.cli.options import OF_PLACE, Device, with_late_help
from negbench.runtime.errors import UserError


def _help_of_protocol() -> str:
    from negbench.settings.plugins.facts import STANDARD
    from negbench.settings.plugins.protocols import PROTOCOLS

    return f"{', '.join(PROTOCOLS)}; repeatable. Default: {' and '.join(STANDARD)}."


EvaluateCommand = with_late_help("protocol", _help_of_protocol)


def evaluate(
    path: Annotated[Path, typer.Argument(help="Run folder, or a FILE of weights.")],
    protocol: Annotated[list[str] | None, typer.Option()] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One of the protocol's own settings, data.root, or for a FILE any of its study; repeatable.",
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="FILE's study: its data and views. Default: quickstart.")] = None,
    output: Annotated[Path | None, typer.Option(help="Parent folder of FILE's records. Default: results.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Another data set: transfer, voc07, places205.")
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the labelled images, one a line: semi-1, semi-10.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Evaluate a run's newest checkpoint, or the encoder in FILE (docs/encoders.md), by protocols (docs/evaluation.md).

    Writes evaluations/PROTOCOL.json.
    """
    from negbench.settings.plugins.facts import STANDARD
    from negbench.settings.plugins.protocols import find_protocol, of_every_epoch

    protocols = list(dict.fromkeys(protocol or STANDARD))
    for name in protocols:
        find_protocol(name)
    from negbench.evaluate.request import make_requests, remarks

    of_study = [text for text in settings or [] if _is_of_study(text, protocols)]
    of_protocol = [text for text in settings or [] if not _is_of_study(text, protocols)]
    requests = make_requests(protocols, of_protocol, data, labels_file)
    of_file = [text for text in of_study if text.partition("=")[0] not in OF_PLACE]
    if path.is_dir() and (config or of_file or output):
        option = "--config" if config else f"--set {of_file[0]}" if of_file else "--output"
        raise UserError(f"{option} belongs to a FILE; the run {path} has settings and a folder of its own")
    from negbench.cli.progress import evaluation_progress, interruptible, note
    from negbench.evaluate import final
    from negbench.evaluate.source import file_source, run_source
    from negbench.records.run.summary import top1_figures
    from negbench.runtime.device import choose_device

    where = choose_device(device)
    kept = "protocols that were done are written, and all other records are as they were"
    with interruptible(lambda: kept), evaluation_progress() as progress:
        if path.is_dir():
            source = run_source(path, note, of_study)
        else:
            source = file_source(path, config, of_study, output or Path("results"))
        evaluations = final.evaluate(source, protocols, where, requests, progress, note)
    for text in remarks(evaluations):
        note(text)
    figures = {name: value for name, value in top1_figures(evaluations).items() if value is not None}
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:32}{value:.4f}")
    for selecting in of_every_epoch(protocols):
        if selection := evaluations[selecting.name]["trained"].get("selection"):
            print(f"{selecting.name}: {selection}")
    files = ", ".join(f"{final.stem_of(name, evaluations[name], requests)}.json" for name in protocols)
    print(f"written to {source.folder.evaluations}: {files}")


def _is_of_study(setting: str, protocols: list[str]) -> bool:
    """Whether it is a key of runs and not of a protocol."""
    from negbench.settings.plugins.protocols import keys_of_protocols
    from negbench.settings.schema import RunConfig

    key = setting.partition("=")[0]
    return "." in key or (key in RunConfig.model_fields and key not in keys_of_protocols(protocols))
