"""The command line explains itself."""

import pathlib
import re
import shutil
import subprocess

import pytest

from support import BINARY, run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def overview(*words):
    return run(BINARY, *words, "--help").stdout


def walk(*words):
    """Every command, as its words, the program itself first."""
    yield words
    listed = overview(*words).partition("SUBCOMMANDS:")[2]
    for name in re.findall(r"^  ([a-z-]+)(?: \(default\))?(?:\s|$)", listed, re.M):
        if name != "help":
            yield from walk(*words, name)


def test_help():
    """Every command says what it is for and how it is called, and explains each of its options and arguments."""
    commands = list(walk())
    assert len(commands) > 20
    for words in commands:
        text = overview(*words)
        if words == ("sendmail",):
            # In the words of its kind.
            assert all(re.search(rf"^ +{option}\b", text, re.M) for option in ["-t", "-i", "-f", "-N", "--server"])
            continue
        assert re.match(r"OVERVIEW: \w.+?\.\n\n", text, re.S), words
        assert f"USAGE: {' '.join(('posthorn', *words))}" in text, words
        lines = text.splitlines()
        for line, after in zip(lines, [*lines[1:], ""]):
            label = re.match(r"  (-[^ ,]+(, -[^ ,]+)*( <[^>]+>)?|<[^>]+>( \.\.\.)?)", line)
            if label:
                explained = line[label.end():].strip() or re.match(r" {20,}\S", after)
                assert explained, f"{' '.join(words)}: {line}"


def test_version():
    version = re.search(r'text = "(.+)"', (ROOT / "Sources/Node/posthorn/Version.swift").read_text()).group(1)
    assert run(BINARY, "--version").stdout == f"{version}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell):
    """There is a script for each shell; one that is installed finds nothing wrong with it."""
    script = run(BINARY, "--generate-completion-script", shell).stdout
    for word in ["check-config", "queue", "summary", "topics", "sink"]:
        assert word in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=20)


def test_completion_in_bash():
    """Tab after “posthorn queue s” offers summary and show."""
    script = run(BINARY, "--generate-completion-script", "bash").stdout
    script += """
COMP_WORDS=(posthorn queue s) COMP_CWORD=2 COMP_LINE='posthorn queue s' COMP_POINT=16
_posthorn posthorn s queue
printf '%s\\n' "${COMPREPLY[@]}"
"""
    offered = subprocess.run(["bash"], input=script, text=True, capture_output=True, timeout=20).stdout.split()
    assert {"summary", "show"} <= set(offered) and "flush" not in offered
