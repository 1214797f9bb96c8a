"""`DudeConfig`: what `LoraConfig` is to LoRA."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from peft import LoraConfig

from .errors import DudeError, did_you_mean, quote, shorten
from .files import public_name, read_json, sha256, sync, use_umask, write_json, write_text
from .functional import MagnitudeAxis
from .options import check_options
from .svd import SvdMethod, Variant

CONFIG_NAME = "dude_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
FORMAT_VERSION = 1

# The options of LoRA that DuDe honours. Every other one is refused when it is not at its default, those that a later
# PEFT may add included: nothing is trained with an option that does nothing.
IDENTITY = ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision")
TARGETS = (
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
)
SIZES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout")
HONOURED = frozenset({*IDENTITY, *TARGETS, *SIZES, "fan_in_fan_out", "inference_mode"})
# What PEFT's model classes add to modules_to_save themselves, whichever of them the model has.
TASK_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
REASONS = {
    "use_dora": "DuDe has DoRA's magnitude already",
    "init_lora_weights": "DuDe initialises from the singular triplets of the weight; see init_variant and svd",
    "bias": "DuDe never writes to the base model, and PEFT trains its biases in place",
    "lora_bias": "DuDe's direction has no bias: it would not be scaled by the magnitude",
    "loftq_config": "DuDe initialises from the weight itself",
    "trainable_token_indices": "embeddings are not decomposed; train them with modules_to_save",
    "layer_replication": "replicated layers share one weight, and with it one initialisation",
}


@dataclasses.dataclass
class DudeConfig(LoraConfig):
    """Configuration of DuDe (arXiv 2505.14367): a `LoraConfig` whose adapter is W' = m V / ||V||_c (Eq. 7).

    Args:
        r: rank, 1 <= r <= min(d, k) of every target.
        target_parameters: parameters of three dimensions of a mixture's experts, by last names as in PEFT, for instance
            `["experts.gate_up_proj", "experts.down_proj"]`; gate and up are two weights of rank r. The options that
            select among modules (exclude_modules, layers_to_transform) do not apply to them.
        lora_alpha: scaling s = lora_alpha / r; default r, so s = 1 (also where `rank_pattern` sets another rank).
        init_variant: how S is shared between A and B: `"dude"` (Eq. 5, 6), `"dude_a"` (Eq. 10), `"dude_b"` (Eq. 11);
            `"random"`, for ablations, is `"dude"` with random singular vectors, drawn from `svd_seed`.
        magnitude_axis: `"out"`, one magnitude per output (DoRA's code, PEFT), or `"in"`, one per input (the paper's
            letter; saved in another form and exported merged).
        detach_norm: treat ||V||_c as a constant in the gradient (DoRA's rule) instead of the exact Eq. 9.
        svd: `"krylov"` or `"exact"`, see `svd.top_singular_triplets`.
        svd_seed: seed of the Krylov block and of random singular vectors, combined with each module's name.
        factors: folder of `streaming.decompose_checkpoint`, whose decompositions are used; not saved with the adapter.

    Raises:
        DudeError: an option of LoRA that DuDe cannot honour, or a value out of range; the reason is in the message.
    """

    lora_alpha: float | None = None  # type: ignore[assignment]
    init_variant: Variant = "dude"
    magnitude_axis: MagnitudeAxis = "out"
    detach_norm: bool = False
    svd: SvdMethod = "krylov"
    svd_seed: int = 0
    factors: str | None = None
    # A stock LoRA layer that meets this config refuses it by this mark, rather than train LoRA in silence.
    use_dude: bool = dataclasses.field(default=True, init=False, repr=False, metadata={"is_lora_variant": True})

    # Of the weights that this config was read with: `load_adapter` compares it with the file.
    weights_sha256: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_options(vars(self))
        self.rank_pattern: dict[str, int] = dict(self.rank_pattern or {})
        self.alpha_pattern: dict[str, float] = dict(self.alpha_pattern or {})
        if self.lora_alpha is None:
            self.lora_alpha = self.r
            for module, rank in self.rank_pattern.items():
                self.alpha_pattern.setdefault(module, rank)
        heads = TASK_HEADS.get(str(self.task_type), ())
        if heads:  # before PEFT does it, so that no head is a target; PEFT would list them twice
            self.modules_to_save: list[str] | None = list(dict.fromkeys((*(self.modules_to_save or ()), *heads)))
        self._refuse_unhonoured()
        try:
            super().__post_init__()
        except (TypeError, ValueError) as error:
            raise DudeError(f"PEFT refuses the config: {error}") from None

    @property
    def own_modules_to_save(self) -> list[str]:
        """Return `modules_to_save` without the heads that PEFT adds for the task; a model has at most one of them."""
        return [name for name in self.modules_to_save or () if name not in TASK_HEADS.get(str(self.task_type), ())]

    def _refuse_unhonoured(self) -> None:
        default = LoraConfig()
        for field in dataclasses.fields(LoraConfig):
            value = getattr(self, field.name)
            if field.name in HONOURED or value == getattr(default, field.name):
                continue
            reason = REASONS.get(field.name, "it is an option of another LoRA variant")
            raise DudeError(f"DuDe does not support {field.name}={quote(value)}: {reason}. Leave it at its default")

    def lora_config(self) -> LoraConfig:
        """Return the plain `LoraConfig` of the same targets and rank, from which PEFT builds its layer."""
        return LoraConfig(**{name: getattr(self, name) for name in sorted(HONOURED) if hasattr(self, name)})

    def saved_config(self) -> LoraConfig:
        """Return the stock config of the saved form: DoRA of rank 2r on the untouched base, with the same scaling s."""
        stock = self.lora_config()
        factor = math.sqrt(2) if self.use_rslora else 2
        stock.r, stock.lora_alpha = 2 * self.r, factor * self.lora_alpha  # type: ignore[operator]
        stock.rank_pattern = {name: 2 * rank for name, rank in self.rank_pattern.items()}
        stock.alpha_pattern = {name: factor * alpha for name, alpha in self.alpha_pattern.items()}
        stock.use_dora = True
        return stock

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of an equal config."""
        return {key: value for key, value in super().to_dict().items() if key != "use_dude"}

    def to_dude_dict(self) -> dict[str, Any]:
        """Return the content of `dude_config.json`: every honoured option, JSON types only."""
        options = ("init_variant", "magnitude_axis", "detach_norm", "svd", "svd_seed")
        raw = {name: getattr(self, name) for name in (*sorted(HONOURED), *options)}
        raw["base_model_name_or_path"] = public_name(self.base_model_name_or_path)
        if self.modules_to_save is not None:  # PEFT appends the heads of a task each time
            raw["modules_to_save"] = list(dict.fromkeys(self.modules_to_save))
        plain = {k: _plain(v) for k, v in raw.items()}
        return {"format_version": FORMAT_VERSION, **plain}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write `adapter_config.json` as stock PEFT reads it (rank 2r, DoRA) and then `dude_config.json` beside it.

        PEFT calls this after the weights. `dude_config.json` is written last, with their SHA-256: an adapter that is
        not complete has none, or one that does not fit, and is refused at load. Neither file names an absolute path
        (`public_name`), nor does PEFT's model card afterwards.

        With `magnitude_axis="in"`, and for experts, there is no stock form: `adapter_config.json` then names a method
        that stock PEFT does not know, so that it refuses the folder instead of loading something else or a part.

        Raises:
            DudeError: the files cannot be written, or the weights are not there as safetensors.
        """
        folder = Path(save_directory)
        weights, pickled = folder / WEIGHTS_NAME, folder / "adapter_model.bin"
        try:
            if pickled.is_file() and (not weights.is_file() or pickled.stat().st_mtime > weights.stat().st_mtime):
                raise DudeError(f"{pickled}: DuDe adapters are saved as safetensors: leave safe_serialization at True")
            stock = self.saved_config()
            stock.base_model_name_or_path = public_name(self.base_model_name_or_path)
            stock.save_pretrained(save_directory, **kwargs)
            foreign = "DUDE_IN" if self.magnitude_axis == "in" else "DUDE_EXPERTS" if self.target_parameters else None
            if foreign is not None:
                stock_file = folder / "adapter_config.json"
                write_json(stock_file, {**json.loads(stock_file.read_text()), "peft_type": foreign})
            for card in (folder / "README.md", folder.parent / "README.md"):  # PEFT's is beside the first adapter
                publish_card(card)
            raw = self.to_dude_dict()
            # PeftModel saves the weights first. transformers saves them last: those that are there are older.
            if weights.is_file() and "auto_mapping_dict" in kwargs:
                use_umask(weights)
                sync(weights)
                raw["weights_sha256"] = sha256(weights)
            write_text(folder / CONFIG_NAME, json.dumps(raw, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            raise DudeError(
                f"{folder}: the adapter's config could not be written ({error}). The folder has no complete adapter: "
                "free space or choose another folder, and save again"
            ) from None

    @classmethod
    def from_dude_dict(cls, raw: Mapping[str, Any], source: str) -> DudeConfig:
        """Build the config from the content of `dude_config.json`.

        Raises:
            DudeError: a format newer than this package, an unknown key, or a value out of range.
        """
        values = dict(raw)
        version, weights = values.pop("format_version", None), values.pop("weights_sha256", None)
        if type(version) is not int or version != FORMAT_VERSION:
            raise DudeError(
                f"{source}: format_version {quote(version)}, this dude_peft reads {FORMAT_VERSION}: update it"
            )
        if weights is not None and not (isinstance(weights, str) and re.fullmatch("[0-9a-f]{64}", weights)):
            raise DudeError(f"{source}: weights_sha256 must be 64 hexadecimal digits or absent, got {quote(weights)}")
        known = {field.name for field in dataclasses.fields(cls) if field.init} - {"factors"}
        for key in values:
            if key not in known:
                raise DudeError(f"{source}: unknown key {quote(key)}.{did_you_mean(key[:100], known)}")
        try:
            config = cls(**values)
        except DudeError as error:
            raise DudeError(f"{source}: {error}") from None
        config.inference_mode = False
        config.weights_sha256 = weights  # type: ignore[misc]
        return config

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any) -> Any:
        """Read a saved DuDe adapter's config, from a local folder or the hub.

        Raises:
            DudeError: no `dude_config.json` there, or one that cannot be read.
        """
        path = find_adapter_file(pretrained_model_name_or_path, CONFIG_NAME, subfolder, **kwargs)
        return cls.from_dude_dict(read_json(path, "Save the adapter again or fetch it anew"), str(path))


def publish_card(card: Path) -> None:
    """Replace the absolute path that PEFT's model card has for a base model in a local folder."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    found = re.search(r"^base_model: *(['\"]?)(.+?)\1 *$", text, re.MULTILINE)
    if found and re.search("^library_name: peft *$", text, re.MULTILINE):
        name = public_name(found[2])
        if name and name != found[2]:
            write_text(card, text.replace(found[2], name))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return list(value) if isinstance(value, tuple | range) else getattr(value, "value", value)


def find_adapter_file(model_id: str, name: str, subfolder: str | None = None, **hub: Any) -> Path:
    """Return the local path of `name` in the adapter `model_id`: a folder, or a hub repository, which is downloaded.

    Raises:
        DudeError: not there, with what was looked for.
    """
    folder = Path(model_id, subfolder) if subfolder else Path(model_id)
    try:
        if folder.is_dir():
            if (folder / name).is_file():
                return folder / name
            raise DudeError(
                f"{folder} has no {name}: it is not a saved DuDe adapter. Plain PEFT adapters load with PeftModel"
            )
    except OSError as error:
        raise DudeError(f"{folder} cannot be read: {error}. Check its permissions") from None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(model_id), name, subfolder=subfolder, **hub))
    except Exception as error:  # the hub's own errors, and those of the HTTP library of its version
        reason = shorten(error, 300)
        raise DudeError(
            f"{model_id}: no such folder, and {name} could not be downloaded from the hub ({reason})"
        ) from None
