"""Promise: the cache of decompositions gives what a decomposition gives, shares it between ranks, is never wrong."""

from __future__ import annotations

from unittest import mock

import pytest
import tiny_models as models
import torch
from conftest import relative_error
from peft import get_peft_model

from dude_peft import svd
from dude_peft.baselines import LoraXsConfig
from dude_peft.injection import on_init
from dude_peft.svd import cached_triplets


@pytest.fixture
def weight():
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(40, 30, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(30, 30, generator=generator)).Q
    return (U * torch.arange(1, 31).pow(-0.7)) @ V.T


def refused():
    return mock.patch.object(svd, "top_singular_triplets", side_effect=AssertionError("decomposed"))


def files(folder):
    return sorted((folder / "svd").iterdir()) if (folder / "svd").is_dir() else []


def test_it_is_off_unless_asked_for(weight, tmp_path, monkeypatch):
    monkeypatch.delenv(svd.ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path)
    cached_triplets(weight, 4)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(svd.ENVIRONMENT, str(tmp_path / "asked"))
    cached_triplets(weight, 4)
    assert len(files(tmp_path / "asked")) == 1


def test_the_second_time_the_same_bits_and_smaller_ranks_come_from_the_file(weight, tmp_path):
    first = cached_triplets(weight, 6, folder=tmp_path)
    direct = cached_triplets(weight, 3)
    with refused():
        again = cached_triplets(weight, 6, folder=tmp_path)
        fewer = cached_triplets(weight, 3, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(fewer.S, first.S[:3]) and fewer.U.is_contiguous()
    assert relative_error(fewer.U * fewer.S @ fewer.Vh, direct.U * direct.S @ direct.Vh) < 1e-5


def test_everything_that_it_depends_on_is_in_the_name(weight, tmp_path):
    cached_triplets(weight, 3, folder=tmp_path)
    changed = weight.clone()
    changed[0, 0] += 1e-7
    others = [
        {"weight": changed},
        {"weight": weight.double()},
        {"weight": weight.reshape(30, 40)},
        {"seed": 1},
        {"method": "exact"},
        {"r": 4},
    ]
    for number, other in enumerate(others):
        cached_triplets(**{"weight": weight, "r": 3, "folder": tmp_path, **other})
        assert len(files(tmp_path)) == number + 2, other
    with mock.patch.object(svd, "ALGORITHM", -1):
        cached_triplets(weight, 3, folder=tmp_path)
    assert len(files(tmp_path)) == len(others) + 2


@pytest.mark.parametrize("harm", ["truncated", "one byte", "empty", "text", "of another weight", "folder"])
def test_a_file_that_is_not_what_it_should_be_counts_as_not_there(weight, tmp_path, harm):
    good = cached_triplets(weight, 3, folder=tmp_path)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    if harm == "folder":
        path.unlink()
        path.mkdir()
    elif harm == "of another weight":
        cached_triplets(weight * 2, 3, folder=tmp_path / "other")
        path.write_bytes(files(tmp_path / "other")[0].read_bytes())
    else:
        at = len(data) - 50
        flipped = data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]
        path.write_bytes({"truncated": data[:-9], "one byte": flipped, "empty": b"", "text": b"hello"}[harm])
    again = cached_triplets(weight, 3, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(good, again, strict=True))
    assert [p for p in files(tmp_path) if p.suffix == ".part"] == []
    if harm != "folder":  # mended
        with refused():
            cached_triplets(weight, 3, folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_no_error(weight, tmp_path):
    (tmp_path / "svd").write_text("a file where the folder should be")
    assert torch.isfinite(cached_triplets(weight, 3, folder=tmp_path).S).all()


def test_a_model_is_initialised_from_it_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv(svd.ENVIRONMENT, str(tmp_path))
    starts = []
    for _ in range(2):
        model = get_peft_model(models.llama(), models.config_for("llama"))
        starts.append([p for n, p in model.named_parameters() if "lora_dude" in n])
        with refused():
            get_peft_model(models.llama(), models.config_for("llama", r=2))
    assert starts[0] and all(torch.equal(a, b) for a, b in zip(*starts, strict=True))


def test_the_listener_hears_of_every_module_in_order():
    heard = []
    with on_init(lambda *news: heard.append(news)):
        model = get_peft_model(models.llama(), models.config_for("llama", target_modules=["q_proj", "v_proj"]))
    assert [number for _, number, _ in heard] == [0, 1, 2, 3] and {of for *_, of in heard} == {4}
    assert {name for name, *_ in heard} == {n.removeprefix("base_model.model.") for n in models.dude_layers(model)}
    get_peft_model(models.llama(), models.config_for("llama"))
    assert len(heard) == 4


def test_lora_xs_uses_it_too(tmp_path, monkeypatch):
    monkeypatch.setenv(svd.ENVIRONMENT, str(tmp_path))
    factors = []
    for r in (4, 4, 2):
        model = get_peft_model(models.llama(), LoraXsConfig(r=r, target_modules=["q_proj", "v_proj"]))
        factors.append([p for n, p in model.named_parameters() if "lora_xs_A" in n or "lora_xs_B" in n])
        monkeypatch.setattr(svd, "top_singular_triplets", mock.Mock(side_effect=AssertionError("decomposed again")))
    assert len(files(tmp_path)) == len(factors[0]) // 2 == 4
    assert factors[0] and all(torch.equal(a, b) for a, b in zip(*factors[:2], strict=True))
