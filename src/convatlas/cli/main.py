"""`convatlas`: errors a user can cause are one line on stderr; `--debug` shows the traceback."""

import io
import os
import sys
from collections.abc import Sequence

from convatlas import __version__
from convatlas.cli.parse import parse
from convatlas.errors import FailedOnOtherRank, UserError, printable
from convatlas.runtime.num_threads import VARIABLE, parse_threads
from convatlas.runtime.signals import StoppedBySignal, raise_on_signals
from convatlas.runtime.trust import trust_package


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0, 1, 2, 130 or 143)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: no character ends a command
    # before torch is loaded: it would print twenty lines about a rank that ends
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        arguments = set_trust(set_threads(arguments))
    except UserError as error:
        return _fail(str(error), error.exit_code, debug)
    if arguments in (["--version"], ["-V"]):
        print(f"convatlas {__version__}")
        return 0
    try:
        with raise_on_signals(several_ranks=os.environ.get("WORLD_SIZE", "1") not in ("", "1")):
            return parse(arguments)() or 0
    except FailedOnOtherRank as error:
        return error.exit_code
    except UserError as error:
        return _fail(str(error), error.exit_code, debug)
    except StoppedBySignal as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except BrokenPipeError:
        # the reader has gone: stdout has nothing left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        file = f" {printable(error.filename)}" if error.filename else ""
        return _fail(
            f"cannot read or write{file}: {error.strerror or error}; files saved before are complete: "
            "remove the cause and try again",
            1,
            debug,
        )
    except Exception as error:
        if debug:
            raise
        return _fail(
            f"unexpected {type(error).__name__}: {printable(error)}; run again with --debug for the "
            "traceback",
            1,
            debug,
        )


def set_threads(arguments: list[str]) -> list[str]:
    """Take `--threads N` out of the arguments, for this process and its children, before torch is loaded.

    Raises UsageError for a number that is none.
    """
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--threads":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        parse_threads(option, value)
        os.environ[VARIABLE] = os.environ["OMP_NUM_THREADS"] = value
    return rest


def set_trust(arguments: list[str]) -> list[str]:
    """Take every `--trust PACKAGE` out of the arguments. Raises UsageError for what is no package's name."""
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--trust":
            trust_package(value if equals else next(words, ""))
        else:
            rest.append(word)
    return rest


def _fail(message: str, code: int, debug: bool) -> int:
    if debug and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    print(f"convatlas: {printable(message)}", file=sys.stderr)
    return code
