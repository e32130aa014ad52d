"""Models of Transformers whose loss has a divergence: training runs of tiny ones with random weights."""

from collections.abc import Callable
from typing import Any

import drive
import torch
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
    VisualBertForRegionToPhraseAlignment,
)
from transformers.models.visual_bert import modeling_visual_bert

LICENCE = "Apache-2.0"
WHAT = "10 steps each of tiny VisualBERT models, for answers and for phrases, and of D-FINE with its distillation"
PACKAGES = ("transformers",)
STEPS, ROWS, WORDS, REGIONS = 10, 4, 6, 5

Step = Callable[[], torch.Tensor]


def losses() -> list[tuple[Any, str, Any]]:
    function, module = drive.torch_losses()
    return [function, module, (modeling_visual_bert, "KLDivLoss", module[2])]


def _steps(model: torch.nn.Module, inputs: dict[str, Any]) -> Step:
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-2)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        found = model(**inputs)
        found.loss.backward()
        optimizer.step()
        divergence: torch.Tensor = found.get("loss_dict", {}).get("loss_ddf_aux_0", found.loss)
        return divergence.detach()

    return step


def _visual_bert(kind: type, labels: tuple[int, ...], **inputs: Any) -> Step:
    config = VisualBertConfig(
        vocab_size=50,
        hidden_size=32,
        visual_embedding_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=labels[-1],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    inputs |= {
        "input_ids": torch.randint(50, (ROWS, WORDS)),
        "attention_mask": torch.ones(ROWS, WORDS, dtype=torch.long),
        "visual_embeds": torch.randn(ROWS, REGIONS, 16),
        "visual_attention_mask": torch.ones(ROWS, REGIONS),
        "labels": torch.randn(labels).softmax(-1),
    }
    return _steps(kind(config), inputs)


def _answers() -> Step:
    return _visual_bert(VisualBertForQuestionAnswering, (ROWS, 20))


def _phrases() -> Step:
    positions = torch.randint(WORDS, (ROWS, 3))
    return _visual_bert(VisualBertForRegionToPhraseAlignment, (ROWS, 3, REGIONS), region_to_phrase_position=positions)


def _boxes() -> Step:
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 32, 64],
        stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[16, 32, 64, 64],
        hidden_sizes=[16, 32, 64, 64],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_indices=[2, 3, 4],
    )
    config = DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[32, 64, 64],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=10,
        num_denoising=0,
        num_labels=4,
        lqe_hidden_dim=8,
        depth_mult=0.34,
    )
    model = DFineForObjectDetection(config)
    for name, parameter in model.named_parameters():
        if "bbox_embed" in name:  # zeros at first, which makes all layers agree
            torch.nn.init.normal_(parameter, std=0.3)
    boxes = torch.rand(2, 3, 4) * 0.4 + 0.3
    labels = [{"class_labels": torch.arange(3), "boxes": each} for each in boxes]
    return _steps(model, {"pixel_values": torch.randn(2, 3, 64, 64), "labels": labels})


def step() -> Step:
    torch.manual_seed(0)
    return _answers()


def figures() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in {"answers": _answers, "phrases": _phrases, "D-FINE": _boxes}.items():
        torch.manual_seed(0)
        step = make()
        found |= {f"{name}, step {number}": step() for number in range(STEPS)}
    return found
