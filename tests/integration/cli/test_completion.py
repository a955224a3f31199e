"""Completion in bash: the script as it is sourced, and what bash would offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

BASH: Final = shutil.which("bash")
# The function that `complete -F` names gets the words as bash sets them; what it offers is in COMPREPLY.
ASK: Final = """
eval "$(_RISKSTREAM_COMPLETE=bash_source riskstream)"
[[ "$(complete -p riskstream)" =~ -F\\ ([^ ]+) ]] || exit 9
complete_riskstream=${BASH_REMATCH[1]}
compopt() { echo -n "compopt" "$@"; }
while IFS= read -r line; do
    IFS=' ' read -ra COMP_WORDS <<< "riskstream $line"
    [[ "$line" == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    "$complete_riskstream" riskstream
    echo "${COMPREPLY[*]}"
done
"""
OFFERED: Final = {
    "pa": "partitions pauses",
    "seal ver": "verify",
    "pauses --s": "--since",
    "state --tz UTC --format j": "json jsonl",
    "push ": "compopt -o default",
}
"""The words after `riskstream`, the last of them incomplete -> what bash offers; files are left to bash."""


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.system
def test_bash_offers_commands_options_and_values(tmp_path: Path) -> None:
    script = tmp_path / "riskstream"  # as an installation makes it
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m risk_worker "$@"\n')
    script.chmod(0o755)
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-c", ASK],
        input="".join(f"{words}\n" for words in OFFERED),
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"{offered}\n" for offered in OFFERED.values())
