"""Settings from arguments, the environment, files and a mounted folder.

Rule: a setting is declared once, as a field that knows its name, its text form and its default. An argument or
``--flag`` wins over the environment, where ``NAME_FILE`` reads it from a file, and that wins over the file of its name
in ``AUTHIX_SETTINGS_DIR``. All problems are reported together, one sentence each, naming the setting and saying how to
mend it (what does not go together, once each by itself is right); a secret's value is never part of a sentence or a
repr.
"""

from __future__ import annotations

import dataclasses
import inspect
import ipaddress
import os
import re
import reprlib
import ssl
import stat
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from authix.errors import SettingsError

S = TypeVar("S")
REQUIRED = dataclasses.MISSING
DIRECTORY = "AUTHIX_SETTINGS_DIR"
"""Names a folder with a file for each setting, called as the setting is, as Kubernetes mounts a ConfigMap or Secret."""
_PREFIX = "AUTHIX_"


class Given(NamedTuple):
    """What was given for a setting, and where."""

    raw: Any
    source: str


class Effective(NamedTuple):
    """A setting as it is in force, for people to see."""

    name: str
    value: str
    """As one would set it; empty for a secret, and where there is none."""
    source: str
    """``flag``, ``environment``, the path of a file, ``default``, or ``missing``."""
    secret: bool


def setting(
    name: str,
    parse: Callable[[str], Any],
    help: str,  # noqa: A002 - argparse's own term
    *,
    default: Any = REQUIRED,
    secret: bool = False,
) -> Any:
    """Declare a setting: ``parse`` turns text into its value and raises ``ValueError("must be …")``."""
    meta = {"name": name, "parse": parse, "help": help, "secret": secret}
    return dataclasses.field(default=default, repr=not secret, metadata=meta)


def fields_of(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """The settings of ``cls``, its own before those that it has in common with others."""
    own = inspect.get_annotations(cls)
    return sorted(dataclasses.fields(cls), key=lambda field: field.name not in own)


def load(
    cls: type[S],
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
) -> S:
    """Build the settings dataclass ``cls``.

    ``arguments`` are values by field name, each as its text or of the field's type; None means not given. ``whole``:
    ``cls`` is all that a program knows, so another name in the settings folder is a mistake. Raises ``SettingsError``
    naming every problem.
    """
    environ = os.environ if environ is None else environ
    fields = fields_of(cls)
    values: dict[str, Any] = {}
    unread = False
    try:
        problems = _folder_problems(environ, {field.metadata["name"] for field in fields} if whole else None)
    except OSError as error:
        folder, unread = f"{DIRECTORY}={environ[DIRECTORY]}", True
        problems = [f"{folder} is no folder that can be read ({type(error).__name__}): mend the path."]
        environ = {name: value for name, value in environ.items() if name != DIRECTORY}  # or each setting would say so
    for field in fields:
        try:
            given = _find(field, environ, arguments or {})
            if given is not None:
                values[field.name] = _parsed(cls, field, given.raw)
            elif field.default is REQUIRED and not unread:
                problems.append(f"{field.metadata['name']} is missing: set it to {field.metadata['help']}.")
        except ValueError as error:
            problems.append(f"{field.metadata['name']} {error}.")
    if not problems:
        try:
            return cls(**values)
        except ValueError as error:
            problems.append(f"{error}.")
    raise SettingsError("\n".join(problems))


def reread(cls: type[Any], name: str, options: Namespace) -> Any:
    """The field ``name`` of a running program's settings, as its sources tell it now. Raises ``SettingsError``."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    try:
        given = _find(field, os.environ, vars(options))
        return field.default if given is None else _parsed(cls, field, given.raw)
    except ValueError as error:
        raise SettingsError(f"{field.metadata['name']} {error}.") from None


def effective(cls: type[Any], options: Namespace) -> list[Effective]:
    """Every setting of a program with its source, right or wrong."""
    found = []
    for field in fields_of(cls):
        name, secret = field.metadata["name"], field.metadata["secret"]
        try:
            given = _find(field, os.environ, vars(options))
        except ValueError:  # `load` says what is wrong with it
            found.append(Effective(name, "", "unreadable", secret))
            continue
        if given is not None:
            secret = secret or _may_hold_a_secret(cls, field, given.raw)
            found.append(Effective(name, "" if secret else str(given.raw), given.source, secret))
        else:
            source = "missing" if field.default is REQUIRED else "default"
            found.append(Effective(name, "" if secret else spell(field.default), source, secret))
    return found


def _may_hold_a_secret(cls: type[Any], field: dataclasses.Field[Any], raw: Any) -> bool:
    """Whether it is refused, and of what it was refused for may be a password (see ``shown``)."""
    try:
        _parsed(cls, field, raw)
    except ValueError:
        return shown(str(raw)) != repr(str(raw))
    return False


def named(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The ``arguments`` of ``load`` from a framework's configuration, by the settings' names; others are let be."""
    return {field.name: values.get(field.metadata["name"]) for field in dataclasses.fields(cls)}


def add_flags(parser: ArgumentParser, cls: type[Any]) -> None:
    """Give ``parser`` a ``--flag`` for every setting that is no secret (secrets would show in the process list)."""
    for field in fields_of(cls):
        if not field.metadata["secret"]:
            name = field.metadata["name"]
            spelt = spell(field.default)
            default = f" (default: {spelt})" if spelt else ""
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(
                flag, metavar="VALUE", help=f"{name}: {field.metadata['help']}{default}".replace("%", "%%")
            )


def from_flags(cls: type[S], options: Namespace, *, whole: bool = False) -> S:
    """The settings of a program: its flags over its environment. ``whole`` as ``load`` takes it."""
    return load(cls, arguments=vars(options), whole=whole)


def spell(default: object) -> str:
    """A default as one would set it."""
    match default:
        case bool():
            return "yes" if default else "no"
        case frozenset() | tuple():
            return ",".join(sorted(default))
    if default in {REQUIRED, None} or dataclasses.is_dataclass(default):  # what has parts of its own is told in words
        return ""
    return str(default)


def _find(field: dataclasses.Field[Any], environ: Mapping[str, str], arguments: Mapping[str, Any]) -> Given | None:
    """What is given for the setting, by the best of its sources. Raises ``ValueError``."""
    name = field.metadata["name"]
    if arguments.get(field.name) is not None:
        return Given(arguments[field.name], "flag")
    value, path = environ.get(name), environ.get(f"{name}_FILE")
    if value and path:
        raise ValueError(f"and {name}_FILE are both set: keep one")
    if value:
        return Given(value, "environment")
    if path:
        return Given(_read(Path(path), f"{name}_FILE={path}"), path)
    if directory := environ.get(DIRECTORY):
        mounted = Path(directory, name)
        if _is_file(mounted) and (value := _read(mounted, str(mounted))):
            return Given(value, str(mounted))
    return None


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ValueError(f"can't be looked for at {path} ({type(error).__name__}): mend the path") from None


def _read(path: Path, told: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't be read from {told} ({type(error).__name__}): mend the path") from None


def _parsed(cls: type[Any], field: dataclasses.Field[Any], raw: Any) -> Any:
    parse = field.metadata["parse"]
    if isinstance(raw, str | int | float | PurePath):
        return parse(str(raw))
    kind = get_type_hints(cls)[field.name]
    if not _fits(raw, kind):
        own, given = "" if kind is str else f" or {field.type}", type(raw).__name__
        parts = " of other parts" if str(field.type).startswith(given) else ""
        raise ValueError(f"must be text{own}, not {given}{parts}: give it as it would stand in the environment")
    if isinstance(raw, frozenset):  # of texts
        return parse(",".join(sorted(raw)))
    return raw


def _fits(value: object, kind: Any) -> bool:
    """Whether ``value`` is of the type ``kind``, and so is all that it holds; what a text may be is for ``parse``."""
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    if get_origin(kind) is not None:
        held: Any = value
        return isinstance(value, get_origin(kind)) and all(_fits(part, get_args(kind)[0]) for part in held)
    if not isinstance(value, kind):
        return False
    if dataclasses.is_dataclass(kind) or issubclass(kind, tuple):
        return all(_fits(getattr(value, name), part) for name, part in get_type_hints(kind).items())
    return True


def _folder_problems(environ: Mapping[str, str], names: set[str] | None) -> list[str]:
    """What is wrong with the settings folder itself; ``names`` are those that it may hold, None for any.

    Raises ``OSError`` where it can't be read.
    """
    directory = environ.get(DIRECTORY)
    if not directory:
        return []
    mounted = sorted(path.name for path in Path(directory).iterdir() if path.name.startswith(_PREFIX))
    # who may list a folder may still not read what is in it
    os.stat(f"{directory}/.")  # noqa: PTH116 - a Path drops the dot
    problems = []
    for name in mounted:
        if names is not None and name not in names:  # its setting would be left at the default, and nobody would know
            like = get_close_matches(name, names, 1)
            meant = f"rename it to {like[0]} if that is meant, or remove it" if like else "remove it"
            problems.append(f"{name} in {DIRECTORY}={directory} is no setting of this program: {meant}.")
    return problems


def text(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError("must be printable text without a space at its ends")
    return value


_URL = re.compile(r"https?://[^\s,/?#@\\]+(/[^\s,?#@\\]*)?(?<!/)")


def url(value: str) -> str:
    """An absolute http(s) URL without query, fragment, credentials or trailing slash."""
    try:
        parts = urlsplit(value)
        good = _URL.fullmatch(value) and value.isprintable() and parts.hostname and parts.port != 0
    except ValueError:  # brackets or a port that are none
        good = False
    if not good:
        raise ValueError(
            "must be an http(s) URL such as https://auth.example.com, without a slash at the end and without a "
            f"password, not {shown(value)}"
        )
    return value


def shown(value: str) -> str:
    """``value`` for a sentence, unless it may hold a password."""
    return "the given one" if {"@", "?", "#"} & set(value) else repr(value)


_MOST_DIGITS = 100


def whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        # Python does not read a number of any length
        digits = value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
        if not digits or not low <= int(value) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {reprlib.repr(value)}")
        return int(value)

    return parse


def choice(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {value!r}")
        return value

    return parse


def flag(value: str) -> bool:
    if value.lower() not in {"yes", "no", "true", "false", "1", "0"}:
        raise ValueError(f"must be yes or no, not {value!r}")
    return value.lower() in {"yes", "true", "1"}


_SECRET = re.compile(r"[A-Za-z0-9._~+/-]{32,}=*", re.ASCII)


def secret_text(value: str) -> str:
    """A secret of at least 32 characters that a bearer token may have (RFC 6750, 2.1)."""
    if _SECRET.fullmatch(value) is None:
        raise ValueError("must be at least 32 letters, digits or -._~+/: make one with `openssl rand -base64 32`")
    return value


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` names this machine only."""
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def leads_here(url: str) -> bool:
    """Whether the host of ``url`` names this machine only."""
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False


def is_plain(url: str) -> bool:
    """Whether what comes from ``url`` can be changed on its way: plain http beyond this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname)


def networks(value: str) -> tuple[str, ...]:
    """Addresses and networks of IPv4 and IPv6, with commas between."""
    try:
        return tuple(str(ipaddress.ip_network(part.strip())) for part in value.split(","))
    except ValueError:
        raise ValueError(f"must be addresses or networks such as 10.0.0.0/8, comma-separated, not {value!r}") from None


def existing_file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError(f"must name a file that is there, not {value!r}")
    return value


def certificates(value: str) -> str:
    try:
        ssl.create_default_context(cafile=existing_file(value))
    except OSError as error:  # an SSLError is one
        raise ValueError(f"must name a file of certificates in PEM, not {value!r} ({type(error).__name__})") from None
    return value


def file_to_be(value: str) -> str:
    if not Path(value).absolute().parent.is_dir() or Path(value).is_dir():
        raise ValueError(f"must name a file in a folder that is there, not {value!r}")
    return value
