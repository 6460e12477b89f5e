"""Bad input gives one clear sentence or a correct, finite answer; never a crash or a hang."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("bad_input.py")


@pytest.fixture(scope="module", params=["main", pytest.param("--all", marks=pytest.mark.slow)])
def outcomes(request):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), request.param],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_case_ends_as_it_should(outcomes):
    assert len(outcomes) > 150
    wrong = []
    for outcome in outcomes:
        (error, text), (expected, message) = outcome["got"], outcome["expected"]
        if error != expected or not re.search(message, text):
            wrong.append(
                f"{outcome['case']}: expected {expected} {message!r}, got {error} {text!r}"
            )
    assert not wrong, "\n".join(wrong)


def test_messages_are_short_sentences(outcomes):
    for outcome in outcomes:
        text = outcome["got"][1]
        assert "\n" not in text
        assert len(text) < 300
        assert not text or text.endswith(".")
