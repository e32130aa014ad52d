"""trl's trainer of generalised knowledge distillation, with tiny models, and its divergences."""

import tempfile
from collections.abc import Callable
from typing import Any

import drive
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_callback import PrinterCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.sdft.loss_utils import compute_divergence

LICENCE = "Apache-2.0"
WHAT = "`GKDTrainer.generalized_jsd_loss` and `compute_divergence` of logits, and 10 steps of a `GKDTrainer`"
PACKAGES = ("trl", "transformers")
STEPS, ROWS, WORDS = 10, 4, 16
losses = drive.torch_losses


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[EOS]", "user", "assistant", *map(str, range(28))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, "[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]")
    fast.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    return fast


def _model(width: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def _with_trainer(beta: float) -> list[float]:
    torch.manual_seed(0)
    numbers = torch.randint(28, (STEPS * ROWS, 2, 6)).tolist()
    conversations = [
        [
            {"role": role, "content": " ".join(map(str, part))}
            for role, part in zip(("user", "assistant"), pair, strict=True)
        ]
        for pair in numbers
    ]
    with tempfile.TemporaryDirectory() as folder:
        options = GKDConfig(
            output_dir=folder,
            beta=beta,
            lmbda=0.0,
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = GKDTrainer(
            _model(16),
            teacher_model=_model(32),
            args=options,
            train_dataset=Dataset.from_dict({"messages": conversations}),
            processing_class=_tokenizer(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, ROWS, WORDS, 32).unbind()
    labels = torch.randint(32, (ROWS, WORDS)).masked_fill(torch.rand(ROWS, WORDS) < 0.3, -100)
    return student.requires_grad_(), teacher, labels


def step() -> Callable[[], torch.Tensor]:
    student, teacher, labels = _logits()
    return lambda: GKDTrainer.generalized_jsd_loss(student, teacher, labels, temperature=2.0).backward()


def figures() -> dict[str, Any]:
    student, teacher, labels = _logits()
    found: dict[str, Any] = {}
    for beta in (0.0, 0.1, 0.5, 1.0):
        of_tokens = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta, temperature=2.0)
        of_rows = compute_divergence(student.log_softmax(-1), teacher.log_softmax(-1), beta).mean()
        for name, loss in {"generalized_jsd_loss": of_tokens, "compute_divergence": of_rows}.items():
            (gradient,) = torch.autograd.grad(loss, student)
            found |= {f"{name}, beta {beta}": loss, f"{name}, beta {beta}, gradient": gradient.norm()}
    for beta in (0.0, 0.5):
        found |= {f"GKDTrainer, beta {beta}, step {n}": loss for n, loss in enumerate(_with_trainer(beta))}
    return found
