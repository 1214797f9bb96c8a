"""Errors of the commands: a user's mistake is one line and an exit code; any terminal can show the text.

`boundary` alone decides which exceptions are a user's; all others keep their traceback.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from dude_peft.errors import DudeError, shorten

from ..training.distributed import OtherProcess, process_rank
from . import INTERRUPTED, OUTPUT_CLOSED, USER_ERROR

OTHER_FOLDER = "Choose another folder."
SPACE = "Free some space there, or choose another folder; what was written before is intact."
REMEDIES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: SPACE,
    errno.EROFS: OTHER_FOLDER,
    errno.EACCES: "Change its permissions, or choose another folder.",
    errno.EPERM: "Change its permissions, or choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its symbolic links lead in a circle; choose another path.",
    errno.ENOTDIR: "A part of the path is a file; choose another path.",
    errno.EISDIR: "It is a folder; name a file.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096.",
    errno.EIO: "The disk or network file system fails; choose another.",
}
NO_MEMORY = (
    "out of memory: {}. Lower the batch size (train.batch_size, eval.batch_size, --batch-size) or train.max_length, or "
    "use a smaller dtype."
)
# How torch, safetensors and tokenizers say what an OSError would: none of them keeps the error number.
WRITING = ("inline_container.cc", "file write failed", "iostream error", "(os error")
MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def explain(error: BaseException) -> str | None:
    """Return one line that says what is wrong and what to do; None for an error that no user can fix."""
    if isinstance(error, DudeError):
        return str(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY.format(shorten(error) or "Python could not allocate memory")
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeError):
        return _of_encoding(error)
    text = shorten(error, 300)
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop"):  # pathlib's, for an OSError
        return f"{text}. {REMEDIES[errno.ELOOP]}"
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY):
        return NO_MEMORY.format(text)
    plain = isinstance(error, RuntimeError) or type(error) is Exception
    if type(error).__name__ == "SafetensorError" or (plain and any(sign in str(error) for sign in WRITING)):
        return f"a file could not be read or written: {text}. Is there space left? {SPACE}"
    return None


def _of_system(error: OSError) -> str:
    names = [shorten(os.fsdecode(one)) for one in (error.filename, error.filename2) if isinstance(one, (str, bytes))]
    what = error.strerror or shorten(error, 300) or type(error).__name__
    return f"{' -> '.join(names)}{': ' if names else ''}{what}. {REMEDIES.get(error.errno or 0, '')}".rstrip()


def _of_encoding(error: UnicodeError) -> str:
    value = getattr(error, "object", "")
    shown = shorten(ascii(value))
    coding = getattr(error, "encoding", "UTF-8")
    return f"{shown} cannot be read or written as {coding} ({shorten(error)}). Rename it, or save the file as UTF-8."


@contextmanager
def boundary() -> Iterator[None]:
    """Turn a user's errors in the block into a red message on standard error and `typer.Exit`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a full disk or a closed pipe must show now, not when the interpreter ends
    except BrokenPipeError:
        _forget_output()
        raise typer.Exit(OUTPUT_CLOSED) from None
    except KeyboardInterrupt:
        say_error("stopped", label="")
        raise typer.Exit(INTERRUPTED) from None
    except OtherProcess:  # the process whose error it is reports it
        raise typer.Exit(USER_ERROR) from None
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        say_error(message)
        raise typer.Exit(USER_ERROR) from None


def say_error(message: str, label: str = "error: ") -> None:
    """Print an error, red on a terminal; the message is not parsed as markup and not wrapped."""
    if rank := process_rank():
        message = f"process {rank}: {message}"
    red = sys.stderr.isatty()
    # Not typer.echo, which writes UTF-8 to a terminal that says it is ASCII.
    print(f"{typer.style(label, fg='red', bold=True) if red and label else label}{message}", file=sys.stderr)


def _forget_output() -> None:
    """Discard what is still buffered: standard output is closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


PLAIN = str.maketrans(
    {
        "✓": "v",
        "✗": "x",
        "×": "x",
        "±": "+-",
        "–": "-",
        "—": "-",
        "…": "...",
        "→": "->",
        "≤": "<=",
        "≥": ">=",
        "•": "*",
        "·": ".",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        **dict.fromkeys("─━╌═╸╺", "-"),
        **dict.fromkeys("│┃║", "|"),
        **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╔╗╚╝", "+"),
        **dict.fromkeys("█▉▊▋▌▍▎▏", "#"),
    }
)


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end].translate(PLAIN)
    part = "".join("." if "\u2800" <= one <= "\u28ff" else one for one in part)  # rich's spinner
    return part.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("dude_ascii", _in_ascii)


def prepare_streams() -> None:
    """Let standard output and error show any text: what their encoding lacks is written in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="dude_ascii")
