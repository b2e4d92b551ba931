"""Reads the values of a runbook: each function takes what the file has, and returns it checked.

While a file is read, `info.context` is the `TemplateNamespace`, and templates are filled or checked here. The text of a
ValueError is a sentence that states what is wrong. The sentence of a `FieldError` follows the name of the key.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Annotated

from pydantic import PlainValidator, TypeAdapter, ValidationInfo

from runbook.model import Port
from runbook.template import text as template
from runbook.template.namespace import VERSIONS, TemplateError, TemplateNamespace
from runbook.template.quotes import is_script
from runbook.template.shell_check import check_script
from runbook.template.text import Template, TextFinisher, ValueWriter
from runbook.util.names import parse_port, parse_unit_name
from runbook.util.timespan import parse_span
from runbook.util.wording import join_words, shorten, suggest


class FieldError(ValueError):
    """What is wrong with a value, as the end of a sentence that begins with its key: "wants one value, not a list"."""


PORT_OWNERS = ("unit", "main-pid", "kernel")  # values of `owner` that are not the name of another unit

MAX_ID = 200  # characters of an id: it becomes part of file names, which are limited to 255 bytes
MAX_NUMBER = 2**31 - 1  # the largest whole number of a field: none is too large for the kernel


def describe_kind(value: object) -> str:
    """Return what kind of value this is, for a message: a list, a mapping, a single value."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return "a single value"


def _single(value: object) -> str:
    """Return the text of a single value. Raises FieldError for any other."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        raise FieldError("is empty; give it a value or leave it out")
    raise FieldError(f"must be a single value, not {describe_kind(value)}")


def _namespace(info: ValidationInfo) -> TemplateNamespace | None:
    return info.context if isinstance(info.context, TemplateNamespace) else None


def read_template_text(
    value: object,
    info: ValidationInfo,
    *,
    put: ValueWriter = template.write_plain,
    finish: TextFinisher = str,
    now: bool = True,
    script: bool = False,
) -> str:
    """Return a text if all values in it are known, else a Template. If not `now`, the values are only checked."""
    namespace = _namespace(info)
    read = template.parse_text(
        _single(value), put, finish, variables=namespace.vars if namespace else (), script=script
    )
    if not isinstance(read, Template):
        return finish(read)
    if namespace is None:
        return read
    filled = read.fill(namespace)
    return filled if now and not isinstance(filled, Template) else read


def _known(value: object, info: ValidationInfo) -> str:
    """Return a text. Raises FieldError if a value in it becomes known during the run only."""
    namespace = _namespace(info)
    text = template.parse_text(_single(value), variables=namespace.vars if namespace else ())
    if not isinstance(text, Template) or namespace is None:
        return text
    filled = text.fill(namespace)
    if isinstance(filled, Template):
        missing = join_words(dict.fromkeys(str(reference) for reference in filled.references))
        raise FieldError(f"must be known before the run begins, but {missing} is known only during the run")
    return filled


def read_shell(value: object, info: ValidationInfo) -> str | tuple[str, ...]:
    """Return a command: a script for the shell, or a list of arguments."""
    if not isinstance(value, (list, tuple)):
        # The values are filled in when the step begins, so that an update can be undone with another `to`.
        return read_template_text(value, info, put=template.write_quoted, finish=_some_command, now=False)
    if not value:
        raise FieldError("is an empty list; write the command and its arguments")
    words = _ARGUMENTS.validate_python(value, context=info.context)
    # No shell reads the list, but the program may be one: [sh, -c, "echo ${{ vars.x }}"].
    scripts = [isinstance(word, Template) and is_script(word, words[:at]) for at, word in enumerate(words)]
    if any(scripts):
        kinds = tuple(_ScriptArgument if script else _Argument for script in scripts)
        words = TypeAdapter(tuple[kinds]).validate_python(value, context=info.context)  # type: ignore[valid-type]
    if not words[0].strip():
        raise FieldError("begins with an empty word; write the command first")
    if re.fullmatch(r"(?:.*/)?(?:ba|da)?sh", words[0]) and re.fullmatch(r"-[a-z]*c", "".join(words[1:2])):
        check_script("".join(word for word in words[2:3] if not isinstance(word, Template)))
    return words


_Argument = Annotated[str, PlainValidator(partial(read_template_text, now=False, script=True))]
_ScriptArgument = Annotated[
    str, PlainValidator(partial(read_template_text, put=template.write_plain_word, now=False, script=True))
]
# Built when the first list of arguments is read: most commands are strings.
_ARGUMENTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[_Argument, ...], config={"defer_build": True})


def _some_command(text: str) -> str:
    if not text.strip():
        raise FieldError("is empty; write a command")
    if "\0" in text:
        raise FieldError("contains a NUL byte, which no command accepts")
    return text


def read_pattern(value: object, info: ValidationInfo) -> str:
    """Return a regular expression, in which an inserted value matches itself only."""
    text = _single(value)
    try:
        return read_template_text(text, info, put=template.write_literal, finish=_valid_pattern)
    except TemplateError:
        raise
    except ValueError as error:
        # The pattern is shown as the file has it. Values are mostly not the cause: they match only themselves.
        plain = re.sub(r"\$\{\{.*?\}\}", lambda found: "x" * len(found[0]), text, flags=re.DOTALL)
        filled = str(error).rpartition("regular expression: ")[2]
        why = _find_pattern_error(plain) or f"with its values inserted, {filled}"
        raise ValueError(f"`{shorten(text)}` is not a valid regular expression: {why}") from error


_PATTERN_ERRORS = {
    "(": "the `(` is not closed; write `\\(` if the character is meant",
    "[": "the `[` is not closed; write `\\[` if the character is meant",
    ")": "the `)` closes nothing; write `\\)` if the character is meant",
    **{c: f"the `{c}` has nothing to repeat; write `.{c}`, or `\\{c}` if the character is meant" for c in "*+?"},
}
"""What is wrong, by the character at which Python finds the error."""


def _valid_pattern(text: str) -> str:
    if why := _find_pattern_error(text):
        raise ValueError(f"`{shorten(text)}` is not a valid regular expression: {why}")
    return text


def _find_pattern_error(text: str) -> str:
    """Return what is wrong with a regular expression; empty if it is valid."""
    try:
        with warnings.catch_warnings():
            # A pattern such as `[[a]` may mean something else in a later Python. That is not an error.
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        where = getattr(error, "pos", None)
        if not isinstance(where, int):
            return "error"
        what = _PATTERN_ERRORS.get(text[where : where + 1])
        return f"error at character {where + 1}{f': {what}' if what else ''}"
    return ""


def read_version(value: object, info: ValidationInfo) -> str:
    """Return a version. A tag such as `latest` is refused."""
    text = template.parse_text(_single(value))
    if isinstance(text, Template) and any(reference.root in VERSIONS for reference in text.references):
        raise FieldError("cannot use `to` or `from`; write the version")
    return read_template_text(value, info, finish=_valid_version)


def _valid_version(text: str) -> str:
    if not text.strip():
        raise FieldError("is empty; write a version such as 1.4.2")
    if re.search(r"\s", text.strip()):
        raise ValueError(f"`{shorten(text)}` is not one version; write one such as 1.4.2")
    if not re.search(r"\d", text):
        raise ValueError(f"`{shorten(text)}` is a tag, not a version; write the version it stands for, such as 1.4.2")
    return text.strip()


def read_whole(value: object, info: ValidationInfo) -> int:
    """Return a whole number of at most MAX_NUMBER."""
    text = _known(value, info)
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) > MAX_NUMBER:
        raise ValueError(f"cannot read `{shorten(text)}` as a whole number; write 0, 1, 2, …")
    return int(text)


def read_format(value: object, info: ValidationInfo) -> int:
    """Return the version of the file format."""
    text = _known(value, info)
    if text != "1":
        raise ValueError(f"cannot read format `{shorten(text)}`; this program reads format 1")
    return 1


def read_number(value: object, info: ValidationInfo) -> float:
    """Return a decimal number of 0 or more."""
    text = _known(value, info)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        raise ValueError(f"cannot read `{shorten(text)}` as a number; write 1, 1.5, 2")
    return float(text)


def read_flag(value: object, info: ValidationInfo) -> bool:
    """Return true or false; YAML 1.1 has more words for these."""
    if isinstance(value, bool):
        return value
    text = _known(value, info)
    if text.lower() in ("true", "yes", "on"):
        return True
    if text.lower() in ("false", "no", "off"):
        return False
    raise ValueError(f"cannot read `{shorten(text)}` as true or false; write true or false")


def read_span(value: object, info: ValidationInfo) -> float:
    """Return a time span in seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return parse_span(_known(value, info))


def read_limit(value: object, info: ValidationInfo) -> float:
    """Return a time span in seconds that is longer than 0."""
    seconds = read_span(value, info)
    if seconds <= 0:
        raise FieldError("must be longer than 0; write a time span such as 5s, 2min or 1h 30min")
    return seconds


def read_unit(value: object, info: ValidationInfo) -> str:
    """Return the full name of a unit."""
    return parse_unit_name(_known(value, info))


def read_unit_glob(value: object, info: ValidationInfo) -> str:
    """Return the full name of a unit, or a glob of full names."""
    text = _known(value, info)
    if not re.search(r"[*?\[]", text):
        return parse_unit_name(text)
    # What stands for any characters is checked as if it were one of them.
    plain = parse_unit_name(re.sub(r"[*?]|\[[^]]*\]", "x", text))
    return text if text.endswith(plain[plain.rindex(".") :]) else f"{text}.service"


def _read_port_owner(value: object, info: ValidationInfo) -> str:
    text = _known(value, info)
    if text in PORT_OWNERS:
        return text
    if "." not in text and "@" not in text and (hint := suggest(text, PORT_OWNERS)):
        raise FieldError(f"`{shorten(text)}` is neither {join_words(PORT_OWNERS)} nor the full name of a unit{hint}")
    return parse_unit_name(text)


def read_port_owners(value: object, info: ValidationInfo) -> dict[Port | None, str]:
    """Return the owner of each port; None stands for every port that is not named."""
    if not isinstance(value, Mapping):
        return {None: _read_port_owner(value, info)}
    return {port if port is None else read_port(port, info): _read_port_owner(who, info) for port, who in value.items()}


def as_list(value: object) -> object:
    """Return a list; a single value becomes a list of one."""
    return value if isinstance(value, (list, tuple)) else (value,)


def each_once(ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Return the ports, none of which may be there twice."""
    for number, port in enumerate(ports):
        if port in ports[:number]:
            raise ValueError(f"port `{port}` is in the list twice")
    return ports


def read_port(value: object, info: ValidationInfo) -> Port:
    """Return a port, which may have a protocol and an address."""
    return value if isinstance(value, Port) else parse_port(_known(value, info))


def read_step_id(value: object) -> str:
    """Return the id of a step. Raises ValueError if it is not valid."""
    text = _single(value)
    if not re.fullmatch(r"[A-Za-z]\w*(?:[-.]\w+)*", text, re.ASCII):
        raise ValueError(f"`{shorten(text)}` is not a valid id; use letters, digits and single dashes, a letter first")
    if len(text) > MAX_ID:
        raise ValueError(f"`{shorten(text)}` is not a valid id: it is longer than {MAX_ID} characters")
    return text


def read_expression(value: object, info: ValidationInfo) -> str:
    """Return the text of an expression, checked."""
    text = _single(value)
    checked = template.parse_expression(text)
    if namespace := _namespace(info):
        checked.value(namespace.for_step(None, None))
    return text


def check_variable(name: str) -> str:
    """Return a name of an environment variable."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        how = "use letters, digits and _, no digit first"
        raise ValueError(f"`{shorten(name)}` is not a valid name of an environment variable; {how}")
    return name


def check_header(name: str) -> str:
    """Return a name of an HTTP header."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name, re.ASCII):
        raise ValueError(f"`{shorten(name)}` is not a valid name of an HTTP header")
    return name


def check_one_line(text: str) -> str:
    """Return a text without line breaks, as an HTTP header needs it."""
    if re.search(r"[\r\n\0]", text):
        raise FieldError("contains a line break, which is invalid in an HTTP header")
    return text
