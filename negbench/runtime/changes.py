"""What the code that runs differs in from its commit, as a patch without secrets, large files and binaries."""

import functools
import os
import re
import subprocess
from pathlib import Path

import negbench

PATCH = "changes.patch"
_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=off")
_OF_THE_PLACE = {"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_EXEC_PATH"}
CODE = ("negbench", "methods", "configs")  # folders of a checkout whose new files can change a run
MAX_BYTES = 200_000  # of the changes of a file
_FILE = re.compile(r"^(?=diff --git )", re.MULTILINE)
_NAME = re.compile(r"^diff --git a/(.+) b/\1$", re.MULTILINE)
_SECRET_NAME = re.compile(
    r"(^|/)(\.env.*|\.netrc|\.npmrc|\.pypirc|id_[a-z0-9]+|[^/]*\.(pem|key|p12|pfx)|[^/]*(secret|credential|passw(or)?d)[^/]*)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{30}|\bhf_\w{30}|\bxox[abprs]-\w|\bsk-[\w-]{20}"
    r"|(?i:pass(word|wd)|secret|api_?key|token)['\"]?\s*[=:]\s*['\"][^'\"\s]{8}",
)


@functools.cache
def git_revision() -> str | None:
    """Return the checkout's commit, with `+changes` if files differ from it or are new; None outside a checkout.

    A job's snapshot of the code has the commit in a file.
    """
    noted = _root() / "revision"
    if noted.exists():
        return noted.read_text() or None
    revision = _git("rev-parse", "HEAD")
    if not revision or not _git("ls-files", "--", f"{Path(negbench.__file__).parent.name}/__init__.py"):
        return None
    differs = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all") or _new_files()
    return f"{revision.strip()}{'+changes' if differs else ''}"


@functools.cache
def changes() -> str:
    """Return what differs from `git_revision()` as a patch, and first a comment for each file that is not in it.

    Empty without changes, and outside a checkout. A job's snapshot of the code has the patch in a file.
    """
    noted = _root() / PATCH
    if noted.exists():
        return noted.read_text()
    if not (git_revision() or "").endswith("+changes"):
        return ""
    form = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
    new = _new_files()
    parts = [
        _git(*form, "--ignore-submodules=all", "--relative", "HEAD"),
        *(_git(*form, "--no-index", "/dev/null", name) for name in new),
    ]
    kept, left_out = [], []
    for section in filter(None, _FILE.split("".join(text or "" for text in parts))):
        match = _NAME.search(section)
        name = match[1] if match else section.partition("\n")[0]
        is_text = "\nBinary files " not in section and len(section) <= MAX_BYTES
        if is_text and not _SECRET_NAME.search(name) and not _SECRET_TEXT.search(section):
            kept.append(section)
        else:
            left_out.append(name)
    return "".join(f"# changed, and not in this patch: {name}\n" for name in left_out) + "".join(kept)


def _new_files() -> list[str]:
    listed = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE) or ""
    return sorted(filter(None, listed.split("\0")))


def _root() -> Path:
    return Path(negbench.__file__).resolve().parents[1]


def _git(*arguments: str) -> str | None:
    """Return what git prints, or None if it cannot be asked. Of `diff --no-index` exit code 1 means a difference.

    No program is run that the checkout's configuration or attributes name.
    """
    command = ["git", "-C", str(_root()), "--no-pager", *_SAFE, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=_surroundings(_root()))
    except OSError:
        return None
    return (
        done.stdout.decode(errors="replace") if done.returncode in (0, 1 if "--no-index" in arguments else 0) else None
    )


@functools.cache
def _surroundings(root: Path) -> dict[str, str]:
    """Return the environment for git: no repository but `root`'s, no writing, no fetching, and filters that do nothing.

    Filters have any names, so that those of the checkout are listed first, which runs none.
    """
    known = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _OF_THE_PLACE}
    known |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    listing = ["git", "-C", str(root), "config", "--null", "--name-only", "--get-regexp", r"^filter\..*"]
    keys = os.fsdecode(subprocess.run(listing, capture_output=True, env=known).stdout)
    filters = sorted({key.rpartition(".")[0] for key in keys.split("\0") if key})
    unset = {"clean": "", "process": "", "required": "false"}
    settings = [(f"{name}.{key}", value) for name in filters for key, value in unset.items()]
    for number, (key, value) in enumerate(settings):
        known |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return known | {"GIT_CONFIG_COUNT": str(len(settings))}
