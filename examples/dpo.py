"""Direct preference optimization with DuDe, through TRL, on the embedded model: python examples/dpo.py [STEPS].

The pairs are a right and a wrong answer to the questions of `mini_csqa`. The printed share is that of held-out pairs
for which training has raised the probability of the right answer more than that of the wrong one.
"""

import sys

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from dude_lab.mini import model_dir, records
from dude_peft import DudeConfig


def preferences(split: str, count: int) -> Dataset:
    """Return questions with the right answer as `chosen` and the first wrong one as `rejected`."""
    rows = []
    for record in records("mini_csqa", split, count):
        choices = {choice["label"]: choice["text"] for choice in record["question"]["choices"]}
        right = choices.pop(record["answerKey"])
        rows.append(
            {
                "prompt": f"Question: {record['question']['stem']}\nAnswer:",
                "chosen": f" {right}",
                "rejected": f" {next(iter(choices.values()))}",
            }
        )
    return Dataset.from_list(rows)


trainer = DPOTrainer(
    model=str(model_dir()),  # any causal language model
    args=DPOConfig(
        output_dir="dpo",
        max_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 30,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=50,
        learning_rate=1e-3,
        model_init_kwargs={"dtype": "float32"},
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        gradient_checkpointing=False,  # a small model
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=preferences("train", 1000),
    eval_dataset=preferences("validation", 100),
    peft_config=DudeConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),  # the reference model is the base
)
before = trainer.evaluate()
trainer.train()
after = trainer.evaluate()
trainer.save_model("dpo/adapter")
print(f"loss {before['eval_loss']:.4f} -> {after['eval_loss']:.4f}")
print(f"right answer preferred: {after['eval_rewards/accuracies']:.1%}")
