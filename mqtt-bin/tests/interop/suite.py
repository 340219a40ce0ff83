"""What the Python suites share: named checks that run one after another, counted at the end."""

import os
import sys
import time
import traceback

HOST = os.environ.get("MQTT_HOST", "127.0.0.1")
PORT = int(os.environ.get("MQTT_PORT", "1883"))
# Long enough for a busy machine with two cores; a check ends as soon as its condition holds.
DEADLINE_SECONDS = 20.0

_checks = []


def check(function):
    """Registers a check; its name, with its arguments, states the behaviour."""
    _checks.append((function.__name__.replace("_", " "), function))
    return function


def check_each(**cases):
    """Registers one check for each value of one parameter."""
    ((parameter, values),) = cases.items()

    def register(function):
        for value in values:
            name = f"{function.__name__.replace('_', ' ')} [{parameter} {label(value)}]"
            _checks.append((name, lambda value=value: function(value)))
        return function

    return register


def label(value):
    return getattr(value, "label", value)


def unique(prefix):
    """A name that no other check of this run, and no earlier run, has used."""
    return f"{prefix}-{os.getpid()}-{time.monotonic_ns()}"


def main(run=lambda check: check()):
    """Runs every check through `run` and ends the process: 0 when all passed."""
    passed = failed = 0
    for name, function in _checks:
        try:
            run(function)
            passed += 1
        except Exception:  # noqa: BLE001: whatever goes wrong is that check's failure
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(file=sys.stdout)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
