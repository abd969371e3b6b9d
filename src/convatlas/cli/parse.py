"""From words to a command. tyro parses; what it would draw as a box of several lines becomes one sentence."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from convatlas.errors import UsageError, printable, unknown_name


def parse(words: list[str]) -> Callable[[], int | None]:
    """The command that the words ask for, ready to be called.

    Raises UsageError; `--help` prints and exits.
    """
    from convatlas.cli.registry import COMMANDS

    about = (
        "The landmark convolutional networks, each exactly as its paper prints it: train, evaluate, use. "
        "Every command takes --threads N (threads that compute), --trust PACKAGE (a package of your own, "
        "whose networks are imported where a file names them) and --debug (the traceback of an error)."
    )
    return _parse(words, COMMANDS, "convatlas", about)


def _parse(words: list[str], commands: dict[str, Any], prog: str, about: str) -> Callable[[], int | None]:
    """`words` have chosen `commands`; a command that has commands of its own is parsed in turn."""
    import tyro
    from tyro import _errors  # private, so tyro is pinned exactly

    if words and not words[0].startswith("-") and words[0] not in commands:
        raise unknown_name(f"{prog} command".removeprefix("convatlas "), words[0], commands)
    if not words:
        words = ["--help"]
    command = commands[words[0]] if words and words[0] in commands else None
    if command is not None and hasattr(command, "commands"):
        return _parse(words[1:], command.commands, f"{prog} {words[0]}", str(command.__doc__))

    def refuse(event: _errors.ParseErrorEvent) -> None:
        raise UsageError(
            f"{_sentence(event, command)}; see {prog} {words[0] if command else ''} --help".replace("  ", " ")
        )

    with _errors.on_parse_error(refuse):
        parsed: Callable[[], int | None] = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=prog,
            description=about,
            args=_join_repeated(words),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    return parsed


def _sentence(event: object, command: type | None) -> str:
    """`event` is one of tyro's parse errors; what each carries stands in tyro's `_errors.py`."""
    from tyro import _errors

    match event:
        case _errors.UnrecognizedArgs(tokens=[token, *_]) if token.startswith("-") and command is not None:
            return _unknown_option(token.partition("=")[0], command)
        case _errors.UnrecognizedArgs(tokens=tokens):
            return f"unexpected {' '.join(tokens)!r}"
        case _errors.MissingArgs(missing_arguments=missing):
            return f"missing {' and '.join(m.arg.field.intern_name.upper() for m in missing)}"
        case _errors.MissingSubcommand():
            return "a command is missing"
        case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
            return str(unknown_name(argument.field.intern_name, value, choices))
        case _errors.BadValue(argument=argument):
            return f"{_option(argument.field.intern_name)} needs a value"
        case _errors.InstantiationFailure(argument=argument, message=message) if argument is not None:
            quoted = re.search(r"(?:\[|: )'(.*?)'", message)
            kind = (
                str(argument.field.type_stripped)
                .replace(" | None", "")
                .removeprefix("<class '")
                .removesuffix("'>")
            )
            expected = {"int": "a whole number", "float": "a number"}.get(kind, kind)
            return (
                f"{_option(argument.field.intern_name)} is {quoted[1] if quoted else message!r}: expected "
                f"{expected}"
            )
    return " ".join(str(getattr(event, "message", type(event).__name__)).split())


def _unknown_option(option: str, command: type) -> str:
    known = [_option(field.name) for field in dataclasses.fields(command)]
    if "--set" in known:
        from convatlas.cli.option_hints import setting_for_option

        setting = setting_for_option(option)
        if setting:
            return f"unknown option '{printable(option)}': say {setting}"
    return str(unknown_name("option", option, known))


def _option(field: str) -> str:
    return "--" + field.rstrip("_").replace("_", "-")


# Options that may be given several times, with an example of a value
REPEATED = {"--set": "recipe.batch=64", "--edit": "'SwapActivation(to=tanh)'"}


def _join_repeated(words: list[str]) -> list[str]:
    """`--set a=1 --seed 0 --set b=2` means `--seed 0 --set a=1 b=2`."""
    rest, values, option = list[str](), {name: list[str]() for name in REPEATED}, ""
    for word, following in zip(words, [*words[1:], "-"], strict=False):
        if word in REPEATED and following.startswith("-"):
            raise UsageError(f"{word} needs a value, for example {word} {REPEATED[word]}")
        if word in REPEATED:
            option = word
        elif option and not word.startswith("-"):
            values[option].append(word)
        else:
            option = ""
            rest.append(word)
    return rest + [word for name, given in values.items() if given for word in (name, *given)]
