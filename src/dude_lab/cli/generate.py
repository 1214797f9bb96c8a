"""`dude chat` and `dude generate`: text from a run or a model."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from dude_peft.errors import DudeError, quote, shorten, some
from dude_peft.files import json_values, part_of, sync

from ..data.data_files import Rows, existing, read_rows
from ..data.formats import text_of
from ..data.templates import unusable
from ..folders import check_folder
from ..training.finished_run import is_run, load_any, open_run
from ..training.record import read_record
from ..training.reporter import quiet
from .console import CHECKED, NOTE, console
from .progress_bar import make_reporter

Messages = list[dict[str, Any]]
QUIT, RESET = ("/quit", "/exit"), "/reset"


@dataclass(frozen=True)
class Sampling:
    """How text is generated.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of sampling.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 42

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        if self.temperature == 0:  # transformers warns of sampling options in the model's own generation config
            chosen: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        else:
            chosen = {"do_sample": True, "temperature": self.temperature}
        return chosen | {"max_new_tokens": self.max_new_tokens}


class Talker:
    """A loaded model that answers."""

    def __init__(self, name: str, *, dtype: str, device: str, template: str | None, system: str | None) -> None:
        quiet()
        with make_reporter(console()).stage(f"loading {name}"):
            base, model = load_any(name, dtype=dtype, device=device)
        self.model: Any = model.eval()
        self.tokenizer: Any = base.tokenizer
        self.window: int | None = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        self.chats = bool(self.tokenizer.chat_template) and template is None and not _trained_on_text(name)
        given = None if template is None else template.replace("\\n", "\n")  # as a shell passes it on
        self.template, self.system = given or _template_of(name), system
        self.has_adapter = hasattr(model, "disable_adapter")
        if system is not None and not self.chats:
            raise DudeError(
                "--system needs a model with a chat template, and a run that was trained through it: leave it out."
            )

    def ids(self, messages: Messages) -> list[int]:
        """Return the token ids of the prompt, in the run's template: by the chat template, or of the last message."""
        if self.chats:
            system = [{"role": "system", "content": self.system}] if self.system is not None else []
            if self.template is not None:
                messages = [
                    {**one, "content": _filled(self.template, one["content"])} if one["role"] == "user" else one
                    for one in messages
                ]
            try:
                found = self.tokenizer.apply_chat_template(
                    system + messages, add_generation_prompt=True, return_dict=True, tokenize=True
                )
            except Exception as error:  # a template is a program: it raises TemplateError, TypeError, anything
                raise DudeError(f"the model's chat template rejects this chat: {shorten(error)}.") from None
            return self._within_context(list(found["input_ids"]))
        text = messages[-1]["content"]
        if self.template is not None:
            text = _filled(self.template, text)
        # Training moves a space at the end of a prompt to the completion (`data.templates.join_pair`).
        return self._within_context(list(self.tokenizer(text.rstrip(" \t"))["input_ids"]))

    def _within_context(self, ids: list[int]) -> list[int]:
        if self.window is not None and len(ids) >= self.window:
            raise DudeError(
                f"the prompt has {len(ids):,} tokens, and the model's context is {self.window:,}. Shorten it."
            )
        return ids

    def adapter(self, on: bool) -> AbstractContextManager[Any]:
        """Return a context with the adapter, or without it."""
        return nullcontext() if on else self.model.disable_adapter()

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, streamer: Any = None) -> list[str]:
        """Return the answers to prompts of token ids, padded on the left to one batch; they end with the context."""
        import torch
        from transformers import set_seed

        set_seed(sampling.seed)
        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        rows = [[pad] * (longest - len(one)) + one for one in prompts]
        arguments = sampling.arguments
        if self.window is not None:
            arguments["max_new_tokens"] = min(sampling.max_new_tokens, self.window - longest)
        mask = [[0] * (longest - len(one)) + [1] * len(one) for one in prompts]
        device = next(self.model.parameters()).device
        with torch.no_grad():
            out = self.model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                pad_token_id=pad,
                streamer=streamer,
                **arguments,
            )
        return [self.tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in out]


def _trained_on_text(name: str) -> bool:
    """Return whether a run was trained on text without the chat template, so that it is not asked through it."""
    if not is_run(name):
        return False
    record = read_record(open_run(name)[0])
    return not record["provenance"]["data"].get("chat_template", False)


def _template_of(name: str) -> str | None:
    """Return the prompt template that a run was trained with, where it has one field."""
    if not is_run(name):
        return None
    template = open_run(name)[1].data.prompt
    return template if template is not None and len(_fields(template)) == 1 else None


def _fields(template: str) -> list[str]:
    try:
        return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise DudeError(f"--template {quote(template)}: {error}. Write a literal brace as {{{{ or }}}}.") from None


def _filled(template: str, text: str) -> str:
    fields = _fields(template)
    if len(fields) != 1:
        raise DudeError(f"--template {quote(template)} has {len(fields)} fields; give one, as in 'Question: {{}}'.")
    parts = string.Formatter().parse(template)
    return "".join(literal + (text if field is not None else "") for literal, field, _, _ in parts)


def chat(talker: Talker, sampling: Sampling, *, base: bool) -> int:
    """Answer line by line until the end of the input; return the exit code.

    Args:
        talker: the model.
        sampling: how it answers.
        base: show the answer of the base model as well.
    """
    from transformers import TextStreamer

    if base and not talker.has_adapter:
        raise DudeError("--base needs a run with an adapter: without its adapter the model is the base.")
    out = console()
    if not talker.chats:
        how = "as it is" if talker.template is None else f"in the template {quote(talker.template)}"
        out.print(
            f"{NOTE} not trained through a chat template: each line is sent {how}, without the lines before it",
            soft_wrap=True,
        )
    out.print(f"[dim]{', '.join(QUIT)} or Ctrl-D ends, {RESET} forgets the conversation[/]")
    history: Messages = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            out.print()
            return 0
        if text in QUIT:
            return 0
        if text == RESET:
            history = []
            continue
        if not text:
            continue
        history.append({"role": "user", "content": text})
        prompt = talker.ids(history)
        for on in (True, False) if base else (True,):
            if base:
                out.print("[bold]tuned:[/]" if on else "[bold]base:[/]")
            with talker.adapter(on):
                streamer = TextStreamer(talker.tokenizer, skip_prompt=True, skip_special_tokens=True)
                [answer] = talker.generate([prompt], sampling, streamer)
            if on:
                kept = {"role": "assistant", "content": answer}
        history.append(kept)


def check_files(file: Path, output: Path) -> None:
    """Check the files of `generate_file` before a model is loaded.

    Raises:
        DudeError: `file` does not exist, or `output` exists, does not end in .jsonl or cannot be written.
    """
    existing(file)
    if output.suffix != ".jsonl":
        raise DudeError(f"-o {output}: give a name that ends in .jsonl.")
    if output.exists():
        raise DudeError(f"-o {output}: this file exists. Choose a new name.")
    check_folder(output.parent, "-o")


def generate_file(
    talker: Talker, name: str, file: Path, output: Path, sampling: Sampling, *, prompt: str, batch_size: int
) -> int:
    """Write each record of a file with its answer to a JSONL file; return the exit code.

    The answer is the record's `answer`, or `generated_answer` where the file has a column of that name already.

    An interrupted call is resumed by the same call: the answers so far lie in a hidden file beside `output`.

    Args:
        talker: the model.
        name: its name, part of what identifies the call.
        file: .jsonl, .json, .csv or .parquet with a column of messages or of prompts.
        output: the file to write; see `check_files`.
        sampling: how it answers.
        prompt: the column of prompts, where there is no column `messages`.
        batch_size: prompts per forward pass.

    Raises:
        DudeError: a file that cannot be read, or a record without a prompt.
    """
    rows = read_rows(str(file))
    prompts = []
    for number, messages in enumerate(_conversations(rows, prompt)):
        try:
            prompts.append(talker.ids(messages))
        except DudeError as error:
            raise DudeError(f"{rows.place(number)}: {error}") from None
    key = "answer" if not any("answer" in row for row in rows.rows) else "generated_answer"
    described = json.dumps([name, prompts, sampling.__dict__, batch_size, talker.template])
    part = part_of(output.with_name(f"{output.name}.{hashlib.sha256(described.encode()).hexdigest()[:12]}"))
    out = console()
    reporter = make_reporter(out)
    if key != "answer":
        out.print(f"{NOTE} {escape(str(file))} has a column answer: the model's are in {key}", soft_wrap=True)
    with _locked(part, output):
        if done := _whole_lines(part):
            out.print(f"{NOTE} resuming after {done:,} of {len(prompts):,} answers", soft_wrap=True)
        with part.open("a", encoding="utf-8") as stream, reporter.stage(f"answering {file}"):
            for first in range(done, len(prompts), batch_size):
                batch = prompts[first : first + batch_size]
                for row, answer in zip(rows.rows[first:], talker.generate(batch, sampling), strict=False):
                    values = json_values({**row, key: answer})
                    stream.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")
                stream.flush()
                reporter.asked(first + len(batch), len(prompts), "answers")
        sync(part)
        part.replace(output)
    out.print(f"{CHECKED} {escape(str(output))}: {len(prompts):,} answers", soft_wrap=True)
    return 0


def _conversations(rows: Rows, column: str) -> Iterator[Messages]:
    """Yield the messages of each record, up to the last one that is not the assistant's.

    Raises:
        DudeError: names the first record without a prompt, or with one that is no text.
    """
    for number, row in enumerate(rows.rows):
        place = rows.place(number)
        messages = row.get("messages")
        if isinstance(messages, list) and messages:
            messages = _checked(messages, place)
            while messages and messages[-1]["role"] == "assistant":
                messages = messages[:-1]
            if messages:
                yield messages
                continue
        text = row.get(column)
        if isinstance(text, list) and text:
            yield _checked(text, place)
        elif isinstance(text, str) and text.strip():
            if fault := unusable(text):
                raise DudeError(f"{place}: the prompt has {fault}.")
            yield [{"role": "user", "content": text}]
        else:
            raise DudeError(
                f"{place}: no prompt in column '{column}' and no 'messages'. It has {some(row)}; name the column by "
                "--prompt."
            )


def _checked(messages: list[Any], place: str) -> Messages:
    """Return messages whose contents are text."""
    if not all(isinstance(one, dict) for one in messages):
        raise DudeError(f"{place}: {quote(messages)} is not a list of messages with 'role' and 'content'.")
    made = []
    for number, one in enumerate(messages, 1):
        content = "" if one.get("content") is None and one.get("tool_calls") else one.get("content")
        made.append({**one, "role": str(one.get("role")), "content": text_of(content, f"{place}: message {number}")})
    return made


@contextmanager
def _locked(part: Path, output: Path) -> Iterator[None]:
    """Lock the file of the answers so far: two processes that write it would mix their lines."""
    from filelock import FileLock, Timeout

    lock = FileLock(part.with_name(f"{part.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DudeError(f"-o {output}: another process is answering this file. Wait for it, or stop it.") from None
    try:
        if output.exists():
            raise DudeError(f"-o {output}: this file exists. Choose a new name.")
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _whole_lines(part: Path) -> int:
    """Return the number of whole lines of a file, and cut off what a killed process left of the next one."""
    if not part.is_file():
        return 0
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        part.write_bytes(whole)
    return whole.count(b"\n")
