"""The shapes of the paper's models, by name: parameters and linear modules."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError, did_you_mean

from ..config.yaml_reader import read_yaml
from ..settings import Settings, parse

if TYPE_CHECKING:
    from dude_peft.targets import Target

TABLE = Path(__file__).parent / "shapes.yaml"


class Shape(Settings):
    """A decoder with RMSNorm and a gated MLP.

    Attributes:
        hidden: width.
        layers: number of layers.
        heads: number of attention heads, each hidden / heads wide.
        kv_heads: number of heads of keys and values.
        intermediate: width of the MLP.
        vocabulary: rows of the embedding.
        tied: whether the output layer shares the embedding.
        qkv_bias: whether query, key and value have a bias.
        fused: whether q, k and v are one module (`qkv_proj`), and gate and up another (`gate_up_proj`).
        parameters: number of parameters on the hub.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    fused: bool
    parameters: int

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Linear modules of a layer: last name -> shape (d, k)."""
        h, kv = self.hidden, self.kv_heads * (self.hidden // self.heads)
        if self.fused:
            attention = {"qkv_proj": (h + 2 * kv, h)}
            mlp = {"gate_up_proj": (2 * self.intermediate, h)}
        else:
            attention = {"q_proj": (h, h), "k_proj": (kv, h), "v_proj": (kv, h)}
            mlp = {"gate_proj": (self.intermediate, h), "up_proj": (self.intermediate, h)}
        return {**attention, "o_proj": (h, h), **mlp, "down_proj": (h, self.intermediate)}

    @property
    def in_products(self) -> int:
        """Number of weights that every token is multiplied with: linear modules and output layer."""
        return self.layers * sum(d * k for d, k in self.modules.values()) + self.vocabulary * self.hidden

    @property
    def counted(self) -> int:
        """Number of parameters, computed from the shapes."""
        bias = self.hidden + 2 * self.kv_heads * (self.hidden // self.heads) if self.qkv_bias else 0
        norms = (2 * self.layers + 1) * self.hidden
        embedding = 0 if self.tied else self.vocabulary * self.hidden
        return self.in_products + self.layers * bias + norms + embedding

    def targets(self, names: list[str] | str, r: int) -> list[Target]:
        """Return the modules called `names` in every layer, or with `all-linear` every linear one.

        Raises:
            DudeError: a name that no module has.
        """
        from dude_peft.targets import Target

        wanted = list(self.modules) if isinstance(names, str) else names
        if lost := [name for name in wanted if name not in self.modules]:
            hint = did_you_mean(lost[0], self.modules)
            raise DudeError(f"target_modules: '{lost[0]}': a layer has {', '.join(self.modules)}.{hint}")
        return [
            Target(f"model.layers.{layer}.{name}", self.modules[name], r, 1.0)
            for layer in range(self.layers)
            for name in wanted
        ]


@cache
def shapes() -> dict[str, Shape]:
    """Return every shape, by the model's name."""
    return {name: parse(Shape, raw, f"{TABLE.name}: {name}") for name, raw in read_yaml(TABLE).items()}


def shape_of(model: str) -> Shape:
    """Return the shape of a model.

    Raises:
        DudeError: it is not in the table.
    """
    if model not in shapes():
        hint = did_you_mean(model, shapes())
        raise DudeError(
            f"--dry-run: the shape of '{model}' is not known.{hint} Known: {', '.join(shapes())}. For another "
            "model use `dude train CONFIG.yaml --dry-run`, which reads its config."
        )
    return shapes()[model]
