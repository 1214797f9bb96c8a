"""Reinforcement learning with verifiable rewards (GRPO) with DuDe, through TRL: python examples/grpo.py [STEPS].

The embedded model answers the questions of `mini_csqa`; the reward, which a program can verify, is 1 for an answer of
one word. The mean reward of sampled answers to held-out questions is printed before and after.
"""

import sys
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from dude_lab.mini import model_dir, records
from dude_peft import DudeConfig


def questions(split: str, count: int) -> Dataset:
    """Return prompts."""
    rows = records("mini_csqa", split, count)
    return Dataset.from_list([{"prompt": f"Question: {row['question']['stem']}\nAnswer:"} for row in rows])


def one_word(completions: list[str], **_: Any) -> list[float]:
    """Return 1 for each completion of one word, else 0."""
    return [float(text.strip().isalpha()) for text in completions]


trainer = GRPOTrainer(
    model=str(model_dir()),  # any causal language model
    reward_funcs=one_word,
    args=GRPOConfig(
        output_dir="grpo",
        max_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 15,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=160,
        num_generations=8,
        max_completion_length=8,
        learning_rate=1e-3,
        model_init_kwargs={"dtype": "float32"},
        report_to="none",
        save_strategy="no",
        logging_steps=5,
        gradient_checkpointing=False,  # a small model
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=questions("train", 1000),
    eval_dataset=questions("validation", 40),
    peft_config=DudeConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
)
before = trainer.evaluate()
trainer.train()
after = trainer.evaluate()
trainer.save_model("grpo/adapter")
print(f"mean reward {before['eval_reward']:.3f} -> {after['eval_reward']:.3f}")
