"""The base model: its source, config, tokenizer and weights.

`find_base` reports errors of the name, the folder and the tokenizer without loading weights.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, did_you_mean, quote, shorten
from dude_peft.files import hash_file, read_json

from ..config.run_settings import ModelSettings
from ..folders import user_path
from ..smollm2 import NAME as SMOLLM2
from .base_weights import check_weights, load_weights, weight_files
from .gguf_checkpoint import converted, is_gguf, source_sha256

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "mini"
MAX_SIZE = 2**31 - 1
MAX_COUNT = 1_000  # layers; the largest published models have some 130
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
SIZES = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "max_position_embeddings", "n_embd", "n_head", "n_positions", "d_model",
)  # fmt: skip
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Base:
    """A base model that can be loaded.

    Attributes:
        name: the name in the config.
        source: argument for `from_pretrained`: a folder or a hub name.
        config: the architecture.
        tokenizer: has an end token and a padding token.
        dtype: dtype of the loaded weights.
        device: `cpu` or `cuda`.
    """

    name: str
    source: str
    settings: ModelSettings
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    device: str

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a model of the hub."""
        path = Path(self.source)
        return path if path.is_dir() else None


def choose_device(wanted: str) -> str:
    """Return the device; `auto` is the GPU if there is one.

    Raises:
        DudeError: an unknown device, or `cuda` without a CUDA device.
    """
    import torch

    if wanted not in DEVICES:
        one = " Choose one of several GPUs by CUDA_VISIBLE_DEVICES." if wanted.startswith("cuda:") else ""
        raise DudeError(f"device: {shorten(wanted)!r} is not one of {', '.join(DEVICES)}.{one}")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DudeError("train.device: cuda, but torch sees no CUDA device. Write auto or cpu, or see `dude env`.")
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(wanted: str, device: str, *, full: bool = False) -> torch.dtype:
    """Return the dtype of the weights; `full` if all of them are trained.

    Raises:
        DudeError: an unknown dtype.
    """
    import torch

    if wanted not in DTYPES:
        raise DudeError(f"dtype: {shorten(wanted)!r} is not one of {', '.join(DTYPES)}.{did_you_mean(wanted, DTYPES)}")
    if wanted != "auto":
        return getattr(torch, wanted)
    if full or device != "cuda" or not torch.cuda.is_bf16_supported():
        return torch.float32
    return torch.bfloat16


def find_base(settings: ModelSettings, *, device: str = "auto", full: bool = False) -> Base:
    """Find a base model and read its config and tokenizer, not its weights.

    Raises:
        DudeError: no such folder, no config.json, no safetensors, unknown to the hub, custom code without
            `trust_remote_code`, no tokenizer, or a tokenizer without an end token.
    """
    from transformers import AutoConfig

    source = _source(settings)
    where = choose_device(device)
    try:
        config = AutoConfig.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # an unexpected value fails anywhere in transformers, with any class
        raise DudeError(_unreadable(settings, source, "config", error)) from None
    _check_quantization(settings, config, full)
    return Base(
        name=settings.name,
        source=source,
        settings=settings,
        config=config,
        tokenizer=load_tokenizer(settings, source),
        dtype=choose_dtype(settings.dtype, where, full=full),
        device=where,
    )


def load_tokenizer(settings: ModelSettings, source: str | None = None) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; if it has no padding token, its end token is used.

    Its chat template is that of `settings.chat_template` if set.

    Raises:
        DudeError: no tokenizer, or one without an end token; or a chat template that cannot be read or rendered.
    """
    from transformers import AutoTokenizer

    source = source or _source(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # tokenizers raises nothing more specific
        raise DudeError(_unreadable(settings, source, "tokenizer", error)) from None
    if tokenizer.eos_token_id is None:
        raise DudeError(
            f"model '{settings.name}': the tokenizer has no end-of-sequence token, so the model cannot learn where "
            "an answer ends. Set `eos_token` in its tokenizer_config.json, or use a model that has one."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if settings.chat_template is not None:
        tokenizer.chat_template = _chat_template(settings.chat_template, tokenizer)
    return tokenizer


def _chat_template(file: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template in a file, after it has rendered a question."""
    path = user_path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        beside = [str(one) for one in path.parent.glob("*.jinja")] if path.parent.is_dir() else []
        hint = did_you_mean(str(path), beside)
        raise DudeError(f"model.chat_template: {shorten(path)} cannot be read ({shorten(error)}).{hint}") from None
    try:
        asked = [{"role": "user", "content": "a question"}]
        shown = tokenizer.apply_chat_template(asked, chat_template=text, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program: it raises TemplateError, TypeError, anything
        raise DudeError(
            f"model.chat_template: {shorten(path)} does not render a question: {shorten(error)}. It must be a chat "
            "template in Jinja, such as the chat_template.jinja of an instruct model."
        ) from None
    if "a question" not in str(shown):
        raise DudeError(
            f"model.chat_template: {shorten(path)} leaves out what the user writes. It must loop over `messages` and "
            "show the `content` of each."
        )
    return text


def load_base(base: Base) -> PreTrainedModel:
    """Load the weights, in `base.dtype`, on `base.device`.

    Raises:
        DudeError: the weights cannot be read (truncated file, no safetensors), or tensors are missing, unexpected or
            of another shape than in the config.
    """
    from safetensors import SafetensorError

    try:
        model = load_weights(
            base.source,
            revision=base.settings.revision,
            trust_remote_code=base.settings.trust_remote_code,
            dtype=base.dtype,
            **_quantized(base),
        )
    except DudeError as error:
        raise DudeError(f"model '{base.name}': {error}") from None
    except (OSError, ValueError, RuntimeError, SafetensorError, TypeError, LookupError, AttributeError) as error:
        check_base(base)  # raises a better message if it finds the cause
        raise DudeError(_unreadable(base.settings, base.source, "weights", error)) from None
    if base.settings.quantization is not None:
        return model  # is on the device; bitsandbytes' layers cannot be moved
    return model.to(device=base.device)  # type: ignore[arg-type]


def _quantized(base: Base) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for `model.quantization`."""
    if base.settings.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)
    if base.settings.quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=base.dtype,
        )
    return {"quantization_config": config, "device_map": {"": base.device}}


def meta_model(base: Base) -> PreTrainedModel:
    """Return the model on the meta device.

    Raises:
        DudeError: the config is not of a causal language model, or cannot be built.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                base.config, dtype=base.dtype, trust_remote_code=base.settings.trust_remote_code
            )
    except Exception as error:  # inconsistent sizes fail anywhere in the architecture, with any class
        raise DudeError(_unreadable(base.settings, base.source, "architecture", error)) from None


def check_base(base: Base) -> str | None:
    """Compare the headers of a local model's weight files with its architecture; skip a model of the hub.

    Returns:
        Why a local model's files were not compared; None if they were.

    Raises:
        DudeError: missing or unexpected tensors, tensors of another shape, or a damaged file.
    """
    if base.folder is None:
        return None
    try:
        return check_weights(base.folder, base.config, type(meta_model(base)), base.dtype)
    except DudeError as error:
        raise DudeError(f"model '{base.name}': {error}") from None


def identity(base: Base) -> dict[str, Any]:
    """Return what identifies the model: name, dtype, and SHA-256 of its files or GGUF file or the hub's commit.

    With `model.chat_template` also `chat_template`, the SHA-256 of that template.
    """
    known: dict[str, Any] = {"name": base.name, "dtype": str(base.dtype).removeprefix("torch.")}
    if base.settings.chat_template is not None:
        known["chat_template"] = hashlib.sha256(str(base.tokenizer.chat_template).encode()).hexdigest()
    if base.folder is None:
        return known | {"commit": getattr(base.config, "_commit_hash", None)}
    if (source := source_sha256(base.folder)) is not None:
        return known | {"sha256": source}  # config.json names the version of transformers that converted it
    digest = hashlib.sha256()
    for path in sorted([base.folder / "config.json", *base.folder.glob("*.safetensors")]):
        digest.update(path.name.encode())
        hash_file(digest, path)
    return known | {"sha256": digest.hexdigest()}


def _source(settings: ModelSettings) -> str:
    """Return the folder of a local model, or the hub name unchanged."""
    name = settings.name
    if name == EMBEDDED and not (Path(name) / "config.json").is_file():
        from ..mini import model_dir

        return str(_checked_folder(Path(model_dir()), name))
    path = user_path(name)
    if path.is_dir():
        return str(_checked_folder(path, name))
    if is_gguf(name):
        return str(_checked_folder(converted(name, None if name == SMOLLM2 else path), name))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        beside = [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        raise DudeError(f"model '{name}': no such folder.{did_you_mean(str(path), beside)}")
    return name


def _checked_folder(path: Path, name: str) -> Path:
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise DudeError(
                f"model '{name}': this folder holds an adapter. Name the base model that it was trained on."
            )
        raise DudeError(f"model '{name}': no config.json in {path}. Give the folder that `save_pretrained` wrote.")
    try:
        _check_sizes(path / "config.json")
    except DudeError as error:
        raise DudeError(f"model '{name}': the config in {path} cannot be used: {error}") from None
    if not weight_files(path):
        pickled = sorted(p.name for p in path.glob("*.bin"))
        why = f" It has {', '.join(pickled)}, which can run code when loaded." if pickled else ""
        raise DudeError(
            f"model '{name}': no model.safetensors in {path}.{why} Only safetensors are loaded: convert it with "
            "`model.save_pretrained(folder)`."
        )
    return path


def _check_sizes(file: Path) -> None:
    """Reject a config.json whose sizes would fill the memory before transformers checks them.

    Raises:
        DudeError: not a JSON object, a size outside its range, or a number that is NaN.
    """
    remedy = "Copy the model's folder again."
    raw = read_json(file, remedy)
    for section in (raw, *(one for one in raw.values() if isinstance(one, dict))):
        for key, value in section.items():
            most = MAX_COUNT if key in COUNTS else MAX_SIZE
            if isinstance(value, float) and math.isnan(value):
                raise DudeError(f"{file}: '{shorten(key)}' is NaN. {remedy}")
            if key in (*COUNTS, *SIZES) and isinstance(value, int) and not 1 <= value <= most:
                raise DudeError(f"{file}: '{key}' is {quote(value)}, and must be between 1 and {most:,}. {remedy}")


def _check_quantization(settings: ModelSettings, config: PretrainedConfig, full: bool) -> None:
    if settings.quantization is not None:
        wanted = f"model.quantization: {settings.quantization}"
        if find_spec("bitsandbytes") is None:
            raise DudeError(f"{wanted} needs bitsandbytes, which is not installed: pip install bitsandbytes")
        if full:
            raise DudeError(
                f"{wanted}: full fine-tuning trains the weights themselves. Choose a method with an adapter."
            )
        if getattr(config, "quantization_config", None) is not None:
            raise DudeError(f"{wanted}: the weights of '{settings.name}' are quantised already. Leave it out.")
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    values = quantization if isinstance(quantization, dict) else getattr(quantization, "__dict__", {})
    method = getattr(values.get("quant_method"), "value", values.get("quant_method"))
    if not isinstance(method, str) or method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise DudeError(f"model '{settings.name}': unknown quantization {quote(method)}. Use an unquantized model.")


def _unreadable(settings: ModelSettings, source: str, what: str, error: BaseException) -> str:
    text = shorten(error, 400).rstrip(".")
    reason = text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: {text}"
    if "trust_remote_code" in str(error):
        return (
            f"model '{settings.name}': its {what} runs code of the model's repository. If you trust it, set "
            "model.trust_remote_code=true."
        )
    if Path(source).is_dir():
        return f"model '{settings.name}': the {what} in {source} cannot be read: {reason}."
    return (
        f"model '{settings.name}': not a local folder, and the {what} cannot be loaded from the hub: {reason}. Check "
        f"the name and the network, or give a folder; '{EMBEDDED}' is the embedded model, which needs no network, and "
        f"'{SMOLLM2}' a small one that `dude fetch {SMOLLM2}` downloads."
    )
