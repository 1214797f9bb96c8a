"""Chats to token ids and loss masks by the model's chat template; the ids and masks are TRL's where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, shorten

from ..data.formats import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, for training.

    Attributes:
        tokenizer: the model's tokenizer.
        template: the template in Jinja. TRL's version for training if it has one for this template; it renders every
            turn the same, whatever follows.
        marked: whether the template marks the assistant's turns by `{% generation %}`.
        tools: whether it renders tool calls.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    marked: bool
    tools: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        """Return the template of a tokenizer.

        Raises:
            DudeError: it has none, or one that cannot be used.
        """
        from trl.chat_template_utils import (
            get_training_chat_template,
            has_generation_markers,
            is_chat_template_stop_token_trained,
            supports_tool_calling,
        )

        own = tokenizer.chat_template
        own = own.get("default") if isinstance(own, dict) else own
        if not own:
            raise DudeError(
                "the records are chats, and the model's tokenizer has no chat template. Use an instruct model, name a "
                "template in Jinja (model.chat_template=FILE), or train on pairs (data.format: prompt_completion)."
            )
        try:
            template = get_training_chat_template(tokenizer) or own
        except Exception:  # of a template that TRL does not know; any class, a template is a program
            template = own
        marked = has_generation_markers(template) and is_chat_template_stop_token_trained(tokenizer, template)
        return cls(tokenizer, template, marked, supports_tool_calling(tokenizer))

    def render(self, chat: Chat, count: int | None = None, *, prompt: bool = False) -> str:
        """Return the text of the first `count` messages; with `prompt`, and of the beginning of the answer to them.

        Raises:
            DudeError: the template rejects the chat; names the record.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat.messages[:count],
                    tools=chat.tools,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
            )
        except Exception as error:  # a template is a program: it raises TemplateError, TypeError, anything
            raise DudeError(f"{chat.place}: the model's chat template rejects this chat: {shorten(error)}.") from None

    def tokens(self, chat: Chat) -> tuple[list[int], list[bool]]:
        """Return the token ids of a chat, and for each whether it belongs to a turn that is trained on.

        Raises:
            DudeError: the template rejects the chat, or renders turns in a way that they cannot be found.
        """
        if not self.tools and any("tool_calls" in message for message in chat.messages):
            raise DudeError(
                f"{chat.place}: a tool call, which the model's chat template leaves out. Remove the record, or use a "
                "model whose template has tools."
            )
        roles = [message["role"] == "assistant" for message in chat.messages]
        if self.marked and chat.trained == roles:
            self.render(chat)  # for its error message
            found: Any = self.tokenizer.apply_chat_template(
                chat.messages,
                tools=chat.tools,
                chat_template=self.template,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            mask = [bool(one) for one in found["assistant_masks"]]
            if any(mask):
                return list(found["input_ids"]), mask
        return self._by_prefixes(chat)

    def _by_prefixes(self, chat: Chat) -> tuple[list[int], list[bool]]:
        """Find a turn as what is between the texts of the messages before it and of those up to it."""
        text = self.render(chat)
        spans = []
        for index, message in enumerate(chat.messages):
            if not chat.trained[index]:
                continue
            earlier = self.render(chat, index).rstrip() if index else ""
            # As TRL: the beginning of an answer may differ from the chat, for instance by an empty thought.
            start = _common(self.render(chat, index, prompt=True), text) if index else 0
            end = _common(self.render(chat, index + 1), text)
            if start < len(earlier) or start >= end or message["content"].strip() not in text[start:end]:
                raise DudeError(
                    f"{chat.place}: the model's chat template renders message {index + 1}, of the assistant, "
                    "differently when others follow it, so its tokens cannot be found. Train on the last turn alone "
                    "(weight: 0 in the others), or mark the assistant's turns in the template by {% generation %}."
                )
            spans.append((start, end))
        encoded: Any = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        offsets = encoded["offset_mapping"]
        # A token across the beginning of a turn is trained on, as in pairs.
        mask = [any(start < right and left < end for start, end in spans) for left, right in offsets]
        return list(encoded["input_ids"]), mask


def _common(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    if other.startswith(one):
        return len(one)
    return next((k for k, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))


def never_ends(tokenizer: PreTrainedTokenizerBase, ids: list[int], mask: list[bool]) -> bool:
    """Return whether the last trained turn ends in plain text: the model would not learn to end its answer."""
    special = set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids)
    for token, trained in zip(reversed(ids), reversed(mask), strict=True):
        if trained and str(tokenizer.decode([token])).strip():
            return token not in special
    return True
