"""What no linter looks at: the links, the line ends, the scripts, and that pyright saw every file.

Run from the root of a work tree: `gates.py tree` or `gates.py types`. Prints one line per finding and exits 1
if there is any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("cli", "controller", "policies", "router", "store")
LINK_MODE = "120000"


def git(*arguments: str) -> list[str]:
    """The NUL-separated fields of a git command's output."""
    output = subprocess.run(("git", *arguments), check=True, capture_output=True).stdout
    return [os.fsdecode(field) for field in output.split(b"\0") if field]


def sources(*patterns: str) -> list[Path]:
    """Files that git tracks or would track, without links and without those deleted from the work tree."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns)
    return [path for path in map(Path, sorted(set(names))) if path.is_file() and not path.is_symlink()]


def links() -> list[str]:
    """Each package is a relative link in accede/, and git keeps it as a link."""
    findings: list[str] = []
    modes = {
        name: entry.split(" ", 1)[0]
        for entry, _, name in (field.partition("\t") for field in git("ls-files", "-z", "-s", "--", "accede"))
    }
    for package in PACKAGES:
        link, target = Path("accede", package), f"../{package}"
        if not link.is_symlink():
            findings.append(f"{link}: must be a link to {target}; make it with: ln -sfn {target} {link}")
        elif (found := str(link.readlink())) != target:
            findings.append(f"{link}: points to {found}, must point to {target}")
        elif not link.is_dir():
            findings.append(f"{link}: points to {target}, which is not there")
        if (mode := modes.get(str(link), "nothing")) != LINK_MODE:
            findings.append(f"{link}: git keeps {mode}, must keep a link ({LINK_MODE}); git add {link}")
    return findings


def line_ends() -> list[str]:
    """No file has Windows line ends: a script with them does not start."""
    return [
        f"{path}: has CRLF line ends; write it with LF" for path in sources() if b"\r\n" in path.read_bytes()
    ]


def scripts() -> list[str]:
    """Every file that names a shell in its first line parses, and can be executed."""
    findings: list[str] = []
    for path in sources("scripts", ".ci"):
        first = path.read_bytes().split(b"\n", 1)[0]
        if not first.startswith(b"#!"):
            continue
        if not os.access(path, os.X_OK):
            findings.append(f"{path}: has a first line #! and is not executable; chmod +x {path}")
        shell = "bash" if b"bash" in first else "sh"
        parsed = subprocess.run((shell, "-n", path), check=False, capture_output=True, text=True)
        if parsed.returncode:
            findings.append(f"{path}: {shell} cannot parse it: {parsed.stderr.strip()}")
    return findings


def tree() -> list[str]:
    """Everything that is read off the files themselves."""
    return [*links(), *line_ends(), *scripts()]


def types() -> list[str]:
    """What pyright finds; and one more finding if it looked at fewer files than there are."""
    wanted = len(sources("*.py"))
    pyright = Path(sys.executable).with_name("pyright")
    run = subprocess.run((pyright, "--outputjson"), check=False, capture_output=True, text=True)
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError:
        return [f"pyright did not report (exit {run.returncode}): {run.stdout}{run.stderr}".strip()]
    findings: list[str] = []
    for found in report["generalDiagnostics"]:
        if found["severity"] != "error":
            continue
        start = found.get("range", {}).get("start", {"line": 0, "character": 0})
        place = f"{os.path.relpath(found['file'])}:{start['line'] + 1}:{start['character'] + 1}"
        findings.append(f"{place}: {found['message']} ({found.get('rule', 'syntax')})")
    checked = report["summary"]["filesAnalyzed"]
    if checked < wanted:
        findings.append(
            f"pyright checked {checked} files of {wanted}; name every folder with Python files in"
            " [tool.pyright] include (it does not follow linked folders)"
        )
    if run.returncode and not findings:
        findings.append(f"pyright ended with exit {run.returncode}: {run.stderr.strip()}")
    if not findings:
        print(f"pyright: {checked} files, no errors")
    return findings


GATES: dict[str, Callable[[], list[str]]] = {"tree": tree, "types": types}


def main(arguments: list[str]) -> int:
    """Run the named gate."""
    if len(arguments) != 1 or arguments[0] not in GATES:
        print(f"usage: gates.py {'|'.join(GATES)}", file=sys.stderr)
        return 2
    findings = GATES[arguments[0]]()
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
